# The schedule of the EN paper's Table 5 (Section 4.3) counted in iterations, 165 epochs of 391: up to 0.1 in the first, a
# tenth after 80 and 120. A shorter run has everything in proportion, as tools/sweep.py stretches it.
_base_ = './resnet20_bn_cifar10_short.py'

epoch = 391
max_iters = 165 * epoch
train_cfg = dict(max_iters=max_iters, val_interval=epoch)
param_scheduler = [
    # From 0, which mmengine does not take.
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=epoch),
    dict(type='MultiStepLR', by_epoch=False, milestones=[80 * epoch, 120 * epoch], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(interval=5 * epoch))
