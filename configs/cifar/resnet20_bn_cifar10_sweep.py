# The short protocol that docs/results compares norms by at each norm's own best rate: flips alone, the rate up over the
# first tenth, then linearly down to 0. tools/sweep.py sets length, batch, rate, norm and seed.
_base_ = './resnet20_bn_cifar10_short.py'

max_iters = 1000
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=max_iters // 10),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=False, begin=max_iters // 10, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max_iters))
