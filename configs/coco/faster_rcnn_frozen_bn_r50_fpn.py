# Faster R-CNN, ResNet-50, FPN, COCO: BN frozen in the backbone, no norm elsewhere, box head of 2 FC.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with
# BN), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'torchvision://resnet50'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')

model = dict(
    backbone=dict(norm_cfg=dict(type='BN', requires_grad=False), init_cfg=init_cfg),
    train_cfg=dict(rpn_proposal=dict(max_per_img=2000)))
