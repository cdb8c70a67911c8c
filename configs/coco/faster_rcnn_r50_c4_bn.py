# Faster R-CNN, ResNet-50, C4, COCO: BN, finetuned, in all five stages.
_base_ = '../_base_/faster_rcnn_r50_c4_coco.py'

pretrained = 'torchvision://resnet50'
init_cfg = dict(type='Pretrained', checkpoint=pretrained)
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    roi_head=dict(shared_head=dict(norm_cfg=norm_cfg, init_cfg=init_cfg)))
