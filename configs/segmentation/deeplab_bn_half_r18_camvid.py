# deeplab_bn_r18_camvid.py with half the channels, a third of its time on a CPU core: small enough to be trained there
# until it no longer gains. BN, and any other norm by --norm.
_base_ = './deeplab_bn_r18_camvid.py'

model = dict(
    backbone=dict(base_channels=32),
    decode_head=dict(in_channels=256, channels=64),
    auxiliary_head=dict(in_channels=128, channels=32))

max_iters = 6000
train_cfg = dict(max_iters=max_iters, val_interval=1000)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=max_iters // 4))
# Channels last takes two thirds of the time at this width.
custom_hooks = [
    dict(type='NormRatioHook', interval=50), dict(type='ImageAreasHook'), dict(type='ChannelsLastHook')
]
