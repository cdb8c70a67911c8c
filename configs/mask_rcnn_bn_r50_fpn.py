# Mask R-CNN, ResNet-50, FPN, COCO: the SN paper's baseline, BN frozen in the backbone and no norm in the heads.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with
# BN), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'torchvision://resnet50'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')

# Frozen: its statistics, gamma and beta stay those of the start.
model = dict(
    backbone=dict(norm_cfg=dict(type='BN', requires_grad=False), init_cfg=init_cfg),
    train_cfg=dict(rpn_proposal=dict(max_per_img=2000)))
