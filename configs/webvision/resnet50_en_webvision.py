# ResNet-50, WebVision: Exemplar Normalization, r = 32.
_base_ = '../_base_/resnet50_webvision.py'

model = dict(backbone=dict(norm_cfg=dict(type='EN', reduction=32, requires_grad=True)))
# The EN paper does not say how it tests; as in SN: BN statistics by batch average, before evaluations and checkpoints.
custom_hooks = [dict(type='BatchAverageHook')]
