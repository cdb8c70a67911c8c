# Mask R-CNN, ResNet-50, FPN, COCO: Group Normalization everywhere, and ILM on GN in the box head, as in the ILM paper
# (Section 4.3): 1x, which is 90,000 iterations.
_base_ = './_base_/mask_rcnn_r50_fpn_coco.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with this
# norm), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'open-mmlab://detectron/resnet50_gn'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')
# Those weights expect BGR input without division; change data_preprocessor with them.

norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    data_preprocessor=dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(norm_cfg=dict(type='ILM', base='GN', num_groups=32, init='normal', requires_grad=True)),
        mask_head=dict(norm_cfg=norm_cfg)))

train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
