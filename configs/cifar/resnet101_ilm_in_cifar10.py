# ResNet-101, CIFAR-10: Instance-Level Meta Normalization on IN.
_base_ = ['../_base_/resnet101_cifar.py', '../_base_/cifar10.py']

model = dict(backbone=dict(norm_cfg=dict(type='ILM', base='IN', init='normal', requires_grad=True)))
train_dataloader = dict(batch_size=64)
