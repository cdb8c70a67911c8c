# ResNet-50, ImageNet: Batch Renormalization, with the bounds of the comparison in the SN paper.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='BRN', r_max=1.5, d_max=0.5, requires_grad=True)))
custom_hooks = [dict(type='RenormHook')]
