# ResNet-20 (56 and 110 by model.backbone.depth), CIFAR-10 as image files in class folders; BN, or any other norm by
# model.backbone.norm_cfg.type=EN and the like.
_base_ = ['../_base_/resnet20_cifar.py', '../_base_/cifar10_folders.py']

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=True)))
