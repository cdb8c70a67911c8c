# ResNet-101, CIFAR-10: Layer Normalization, which is GN with one group.
_base_ = ['../_base_/resnet101_cifar.py', '../_base_/cifar10.py']

model = dict(backbone=dict(norm_cfg=dict(type='GN', num_groups=1, requires_grad=True)))
train_dataloader = dict(batch_size=64)
