# Faster R-CNN, ResNet-50, C4, COCO: Group Normalization, in all five stages.
_base_ = '../_base_/faster_rcnn_r50_c4_coco.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with
# Group Normalization), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'open-mmlab://detectron/resnet50_gn'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')
# Those weights expect BGR input without division; change data_preprocessor with them.

norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    roi_head=dict(shared_head=dict(norm_cfg=norm_cfg, init_cfg=init_cfg)))
