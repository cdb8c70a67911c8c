# Mask R-CNN, ResNet-50, FPN, COCO on one GPU of 2 images, 90,000 iterations (ILM paper, Section 4.3):
# Group Normalization everywhere, ILM on GN in the box head.
_base_ = '../mask_rcnn_ilm_r50_fpn.py'

# The paper names no rate for one GPU; Detectron's is in proportion to the batch.
optim_wrapper = dict(optimizer=dict(lr=0.0025))
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))

max_iters = 90_000
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=False, begin=0, end=max_iters, milestones=[60_000, 80_000], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=10_000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
