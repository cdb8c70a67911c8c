# ResNet-50, WebVision: Exemplar Normalization, r = 32.
_base_ = '../_base_/resnet50_webvision.py'

model = dict(backbone=dict(norm_cfg=dict(type='EN', reduction=32, requires_grad=True)))
# BN statistics by batch average (SN paper, Section 3.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
