# Step 3 of tools/pipeline.py, detection: a small Faster R-CNN with EN in backbone, FPN and box head, from the backbone
# of step 1 (COCO layout).
_base_ = '../_base_/faster_rcnn_r50_fpn_coco.py'

# Another checkpoint by model.backbone.init_cfg.checkpoint=PATH, nothing by model.backbone.init_cfg=None.
pretrained = 'work_dirs/pipeline/classification/iter_500.pth'
norm_cfg = dict(type='EN', init_ratios=(0.05, 0.15, 0.8), requires_grad=True)
channels = 64
model = dict(
    backbone=dict(
        depth=18, stem_channels=32, base_channels=32, norm_cfg=norm_cfg,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=channels, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=channels, feat_channels=channels),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels),
        bbox_head=dict(
            in_channels=channels, conv_out_channels=channels, fc_out_channels=256, num_classes=10,
            norm_cfg=norm_cfg)),
    # A scene has one or two digits.
    train_cfg=dict(rpn_proposal=dict(max_per_img=100), rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(max_per_img=100), rcnn=dict(max_per_img=20)))

data_root = 'data/digits/coco/'
classes = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
load = dict(type='LoadImageFromFile')
annotations = dict(type='LoadAnnotations', with_bbox=True)
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_dataloader = dict(
    batch_size=8, num_workers=1, sampler=dict(type='InfiniteSampler'),
    dataset=dict(pipeline=[load, annotations, resize, dict(type='PackDetInputs')], **dataset))
val_dataloader = dict(
    batch_size=8, num_workers=1,
    dataset=dict(pipeline=[load, resize, annotations, dict(type='PackDetInputs', meta_keys=keys)], **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator

max_iters = 160
optim_wrapper = dict(optimizer=dict(lr=0.02))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 4)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=max_iters))
custom_hooks = [dict(type='BatchAverageHook', num_iters=20)]
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
