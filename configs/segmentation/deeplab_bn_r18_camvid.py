# A small DeepLab on CamVid at half its size, for a CPU core: ResNet-18 of output stride 16, from scratch, 2 images a
# batch. What docs/results.md compares norms by; BN, and any other by --norm.
_base_ = './deeplab_bn_r50_camvid.py'

scale = (240, 180)
crop_size = (160, 160)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(depth=18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(in_channels=512, channels=128, dilations=(1, 3, 6, 9)),
    auxiliary_head=dict(in_channels=256, channels=64))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader

max_iters = 1600
optim_wrapper = dict(optimizer=dict(lr=0.01))
train_cfg = dict(max_iters=max_iters, val_interval=400)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=max_iters // 4, max_keep_ckpts=4, save_best=None))
custom_hooks = [dict(type='NormRatioHook', interval=50), dict(type='ImageAreasHook')]
randomness = dict(seed=0)
