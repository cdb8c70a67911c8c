# ResNet-50 on WebVision 1.0 as in the EN paper (Section 4.2): 256 images a batch, 8 GPUs of 32, 0.1 that falls to a
# tenth after 300,000, 500,000, 600,000, 650,000 and 700,000 iterations, every class equally often. How long it trains
# is not stated: 750,000 iterations. 2.4 million images from Google and Flickr with the labels of the queries, tested on
# WebVision's clean validation images; the folder is laid out as it is distributed.
_base_ = './resnet50_imagenet.py'

data_root = 'data/webvision'
train_dataloader = dict(
    sampler=dict(_delete_=True, type='ClassBalancedSampler'),
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='CustomDataset', data_root=data_root, ann_file=f'info/train_filelist_{source}.txt',
                pipeline=_base_.train_pipeline) for source in ('google', 'flickr')
        ]))
val_dataloader = dict(
    dataset=dict(
        _delete_=True, type='CustomDataset', data_root=data_root, ann_file='info/val_filelist.txt',
        data_prefix='val_images_256', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

max_iters = 750_000
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=max_iters, val_interval=10_000)
param_scheduler = dict(
    _delete_=True, type='MultiStepLR', by_epoch=False, milestones=[300_000, 500_000, 600_000, 650_000, 700_000],
    gamma=0.1)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=10_000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
