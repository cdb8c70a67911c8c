# SENet: mmpretrain's SE-ResNet-50, ImageNet, Batch Normalization.
_base_ = './resnet50_bn.py'

model = dict(backbone=dict(type='SEResNet'))
