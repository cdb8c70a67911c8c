# Mask R-CNN, ResNet-50, FPN, COCO: BN with the statistics of all GPUs, in backbone, FPN, box head and mask head.
_base_ = '../_base_/mask_rcnn_r50_fpn_coco.py'

pretrained = 'torchvision://resnet50'
init_cfg = dict(type='Pretrained', checkpoint=pretrained)
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
