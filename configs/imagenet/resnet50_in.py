# ResNet-50, ImageNet: Instance Normalization.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='IN', affine=True, requires_grad=True)))
