# A small pix2pix for a CPU core, CamVid's label maps to photographs of 128x96: IN.
_base_ = '../_base_/pix2pix_camvid.py'

model = dict(generator=dict(num_downs=5, channels=32), discriminator=dict(num_downs=2, channels=32))
train_cfg = dict(max_epochs=16)
param_scheduler = dict(begin=7, end=17)
default_hooks = dict(checkpoint=dict(interval=1))
