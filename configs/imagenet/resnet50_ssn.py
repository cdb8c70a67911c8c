# ResNet-50, ImageNet: Sparse Switchable Normalization.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='SSN', requires_grad=True)))
# The ratios become one-hot in the course of training; then inference as SN's.
custom_hooks = [dict(type='SparsityHook'), dict(type='BatchAverageHook')]
