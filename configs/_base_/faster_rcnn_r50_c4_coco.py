# Faster R-CNN with ResNet-50 on COCO without FPN (SN paper, arXiv v1, Section 4.2, setting-1): stage 4 is the
# backbone's last, stage 5 the head (roi_head.shared_head). 4 GPUs of 3 images, short side 600, 80,000 iterations at
# 0.01 and 40,000 at 0.001, no weight decay on gamma and beta. 256 proposals of a training image are sampled, as in the
# authors' code.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py']
custom_imports = dict(imports=['mmnorm'])

model = dict(
    # The stride is in the 3x3 convolution and the input is RGB, as the ImageNet configs have it.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(style='pytorch', frozen_stages=-1, norm_eval=False),
    roi_head=dict(shared_head=dict(style='pytorch', norm_eval=False)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=256))))

# The long side is not stated.
resize = dict(type='Resize', scale=(1000, 600), keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(batch_size=3, sampler=dict(type='InfiniteSampler'), dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 120_000
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=10_000)
param_scheduler = [
    # mmdet's warm-up; the paper names none.
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=[80_000], gamma=0.1),
]
optim_wrapper = dict(
    optimizer=dict(lr=0.01),
    constructor='LearnedNormOptimWrapperConstructor',
    paramwise_cfg=dict(norm_decay_mult=0))
auto_scale_lr = dict(base_batch_size=12)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=10_000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
