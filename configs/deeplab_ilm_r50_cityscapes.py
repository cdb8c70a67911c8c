# DeepLab, ResNet-50, Cityscapes: Instance-Level Meta Normalization on GN everywhere.
_base_ = './_base_/deeplab_r50_cityscapes.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with this
# norm), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'torchvision://resnet50'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')

norm_cfg = dict(type='ILM', base='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
