# Mask R-CNN, ResNet-50, FPN, COCO: BN frozen in the backbone, Switchable Normalization in FPN, box head and mask head.
_base_ = '../_base_/mask_rcnn_r50_fpn_coco.py'

pretrained = 'torchvision://resnet50'
norm_cfg = dict(type='SN', requires_grad=True)
model = dict(
    backbone=dict(
        frozen_stages=1, norm_eval=True, norm_cfg=dict(type='BN', requires_grad=False),
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
# BN statistics by batch average (SN paper, Section 3.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
