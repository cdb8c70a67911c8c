# ResNet-101, CIFAR-100: Instance-Level Meta Normalization on GN.
_base_ = ['../_base_/resnet101_cifar.py', '../_base_/cifar100.py']

model = dict(
    backbone=dict(norm_cfg=dict(type='ILM', base='GN', num_groups=32, init='normal', requires_grad=True)),
    head=dict(num_classes=100))
train_dataloader = dict(batch_size=64)
