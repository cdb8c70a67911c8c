# ResNet-20 on CIFAR-10 as image files, in minutes on a CPU core: what docs/results.md compares norms and batch sizes by.
# A schedule of iterations, 1564 of 128 images (4 epochs), a warm-up, then a half cosine. Another batch size is
# train_dataloader.batch_size=2 optim_wrapper.optimizer.lr=0.0015625 (in proportion), another length
# train_cfg.max_iters=25000 param_scheduler.1.end=25000.
_base_ = './resnet20_bn_cifar10_folders.py'

max_iters = 1564
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(sampler=dict(type='InfiniteSampler', _delete_=True, shuffle=True), **loader)
val_dataloader = loader
test_dataloader = loader

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=100, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters))
custom_hooks = [dict(type='NormRatioHook', interval=100)]
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
