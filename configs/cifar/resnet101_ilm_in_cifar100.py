# ResNet-101, CIFAR-100: Instance-Level Meta Normalization on IN.
_base_ = ['../_base_/resnet101_cifar.py', '../_base_/cifar100.py']

model = dict(
    backbone=dict(norm_cfg=dict(type='ILM', base='IN', init='normal', requires_grad=True)),
    head=dict(num_classes=100),
)
train_dataloader = dict(batch_size=64)
