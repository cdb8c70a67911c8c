# A small pix2pix for a CPU core, CamVid's label maps to photographs of 128x96: IN.
_base_ = '../_base_/pix2pix_camvid.py'

model = dict(generator=dict(num_downs=5, channels=32), discriminator=dict(num_downs=2, channels=32))
train_cfg = dict(max_epochs=8)
param_scheduler = dict(begin=3, end=9)
default_hooks = dict(checkpoint=dict(interval=1))
