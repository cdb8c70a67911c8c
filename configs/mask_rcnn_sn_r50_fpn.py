# Mask R-CNN, ResNet-50, FPN, COCO: Switchable Normalization in backbone, FPN, box head and mask head.
_base_ = './_base_/mask_rcnn_r50_fpn_coco.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with this
# norm), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'torchvision://resnet50'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')

# Next to BN with weights of a hub, which are BN's (docs/results.md); even with this norm's own, or none.
init_ratios = (0.01, 0.01, 0.98) if pretrained and '://' in pretrained else None
norm_cfg = dict(type='SN', init_ratios=init_ratios, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
# SN's inference: BN statistics by batch average (SN, arXiv v1, Section 2.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
