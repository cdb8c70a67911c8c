# DeepLab, ResNet-18, the built-in digits scenes: EN everywhere.
_base_ = '../_base_/deeplab_r18_digits.py'

model = dict(backbone=dict(norm_cfg=dict(type='EN', requires_grad=True)))
