# ResNet-20 (56 and 110 by model.backbone.depth), CIFAR-100: Batch Normalization.
_base_ = ['../_base_/resnet20_cifar.py', '../_base_/cifar100.py']

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=True)), head=dict(num_classes=100))
