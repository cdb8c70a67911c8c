# ResNet-50, ImageNet: Batch Normalization, statistics of each GPU for itself.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=True)))
