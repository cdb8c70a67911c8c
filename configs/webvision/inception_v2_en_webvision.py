# Inception v2, WebVision: Exemplar Normalization, r = 16.
_base_ = '../_base_/inception_v2_webvision.py'

model = dict(backbone=dict(norm_cfg=dict(type='EN', reduction=16, requires_grad=True)))
# The EN paper does not say how it tests; as in SN: BN statistics by batch average, before evaluations and checkpoints.
custom_hooks = [dict(type='BatchAverageHook')]
