# ResNet-20 (56 and 110 by model.backbone.depth), CIFAR-10: Group Normalization.
_base_ = ['../_base_/resnet20_cifar.py', '../_base_/cifar10.py']

model = dict(backbone=dict(norm_cfg=dict(type='GN', num_groups=8, requires_grad=True)))
