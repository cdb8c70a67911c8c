# Faster R-CNN, ResNet-50, C4, COCO: Group Normalization, in all five stages.
_base_ = '../_base_/faster_rcnn_r50_c4_coco.py'

# What configs/imagenet/resnet50_gn.py has trained; another by
# model.{backbone,roi_head.shared_head}.init_cfg.checkpoint=PATH.
pretrained = 'work_dirs/resnet50_gn/epoch_100.pth'
init_cfg = dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    roi_head=dict(shared_head=dict(norm_cfg=norm_cfg, init_cfg=init_cfg)))
