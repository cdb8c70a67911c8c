# Inception v2, WebVision: Batch Normalization.
_base_ = '../_base_/inception_v2_webvision.py'

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=True)))
