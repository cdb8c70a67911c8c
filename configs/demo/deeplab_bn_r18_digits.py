# DeepLab, ResNet-18, the built-in digits scenes: BN everywhere.
_base_ = '../_base_/deeplab_r18_digits.py'

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg), decode_head=dict(norm_cfg=norm_cfg), auxiliary_head=dict(norm_cfg=norm_cfg))
