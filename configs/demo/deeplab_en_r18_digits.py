# DeepLab, ResNet-18, the built-in digits scenes: EN everywhere.
_base_ = '../_base_/deeplab_r18_digits.py'

# A run of minutes is shorter than what the ratio nets need to leave IN and LN, which start slower here, behind.
norm_cfg = dict(type='EN', init_ratios=(0.05, 0.15, 0.8), requires_grad=True)
model = dict(backbone=dict(norm_cfg=norm_cfg))
