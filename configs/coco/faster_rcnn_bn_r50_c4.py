# Faster R-CNN, ResNet-50, C4, COCO: BN, in all five stages.
_base_ = '../_base_/faster_rcnn_r50_c4_coco.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with
# BN), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'torchvision://resnet50'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    roi_head=dict(shared_head=dict(norm_cfg=norm_cfg, init_cfg=init_cfg)))
