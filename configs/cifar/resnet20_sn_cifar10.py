# ResNet-20 (56 and 110 by model.backbone.depth), CIFAR-10: Switchable Normalization.
_base_ = ['../_base_/resnet20_cifar.py', '../_base_/cifar10.py']

model = dict(backbone=dict(norm_cfg=dict(type='SN', requires_grad=True)))
# SN's inference: BN statistics by batch average (SN, arXiv v1, Section 2.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
