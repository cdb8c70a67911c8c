# ResNet-101, CIFAR-100: Group Normalization.
_base_ = ['../_base_/resnet101_cifar.py', '../_base_/cifar100.py']

model = dict(backbone=dict(norm_cfg=dict(type='GN', num_groups=32, requires_grad=True)), head=dict(num_classes=100))
train_dataloader = dict(batch_size=64)
