# Faster R-CNN, ResNet-50, FPN, COCO: Switchable Normalization, in backbone, FPN and box head.
_base_ = '../_base_/faster_rcnn_r50_fpn_coco.py'

# What configs/imagenet/resnet50_sn.py has trained; another by
# model.backbone.init_cfg.checkpoint=PATH.
pretrained = 'work_dirs/resnet50_sn/epoch_100.pth'
init_cfg = dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')
norm_cfg = dict(type='SN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
# BN statistics by batch average (SN paper, Section 3.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
