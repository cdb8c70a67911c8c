# ResNet-50, ImageNet: Layer Normalization, which is GN with one group.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='GN', num_groups=1, requires_grad=True)))
