# Mask R-CNN, ResNet-50, FPN, COCO: Group Normalization, in backbone, FPN, box head and mask head.
_base_ = '../_base_/mask_rcnn_r50_fpn_coco.py'

# What configs/imagenet/resnet50_gn.py has trained; another by
# model.backbone.init_cfg.checkpoint=PATH.
pretrained = 'work_dirs/resnet50_gn/epoch_100.pth'
init_cfg = dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg), mask_head=dict(norm_cfg=norm_cfg)))
