# DeepLab, ResNet-18, the built-in digits scenes: EN everywhere.
_base_ = '../_base_/deeplab_r18_digits.py'

norm_cfg = dict(type='EN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg), decode_head=dict(norm_cfg=norm_cfg), auxiliary_head=dict(norm_cfg=norm_cfg))
