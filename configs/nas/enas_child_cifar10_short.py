# The cell that docs/nas.md has found with enas_sn_cifar10_short.py, in minutes on a CPU core: images of 16x16 as files, as wide
# and deep as in the search, 1000 iterations of 64 images, half a cosine. Another cell: model.backbone.genotype=PATH
_base_ = './enas_child_cifar10.py'

genotype = (
    '0:max_pool_3x3+0:max_pool_3x3/0:sep_conv_5x5+0:max_pool_3x3/0:identity+0:sep_conv_5x5//'
    '1:avg_pool_3x3+0:identity/0:max_pool_3x3+2:max_pool_3x3/0:identity+1:max_pool_3x3')
model = dict(backbone=dict(genotype=genotype, cells=1, channels=8, drop_path=0.0), head=dict(in_channels=32))

# Files are read as BGR.
data_preprocessor = dict(to_rgb=True)
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16))]
flip = [dict(type='RandomFlip', prob=0.5, direction='horizontal')]
pack = [dict(type='PackInputs')]
files = dict(_delete_=True, type='CustomDataset', data_root='data/cifar10_images')
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=64, sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix='train', pipeline=[*load, *flip, *pack], **files), **loader)
val_dataloader = dict(batch_size=500, dataset=dict(data_prefix='test', pipeline=[*load, *pack], **files), **loader)
test_dataloader = val_dataloader

max_iters = 1000
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=max_iters, eta_min=0.0001)]
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(
    logger=dict(interval=100, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
