# Faster R-CNN, ResNet-50, FPN, COCO: BN with the statistics of all GPUs, in backbone, FPN and box head.
_base_ = '../_base_/faster_rcnn_r50_fpn_coco.py'

pretrained = 'torchvision://resnet50'
init_cfg = dict(type='Pretrained', checkpoint=pretrained)
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
