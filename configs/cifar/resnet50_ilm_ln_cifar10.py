# ResNet-50 (101 by model.backbone.depth), CIFAR-10: Instance-Level Meta Normalization on LN.
_base_ = ['../_base_/resnet50_cifar.py', '../_base_/cifar10.py']

model = dict(backbone=dict(norm_cfg=dict(type='ILM', base='LN', requires_grad=True)))
train_dataloader = dict(batch_size=64)
