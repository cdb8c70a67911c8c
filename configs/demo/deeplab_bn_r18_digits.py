# DeepLab, ResNet-18, the built-in digits scenes: BN everywhere.
_base_ = '../_base_/deeplab_r18_digits.py'

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=True)))
