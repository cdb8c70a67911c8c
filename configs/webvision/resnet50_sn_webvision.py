# ResNet-50, WebVision: Switchable Normalization.
_base_ = '../_base_/resnet50_webvision.py'

model = dict(backbone=dict(norm_cfg=dict(type='SN', requires_grad=True)))
# SN's inference: BN statistics by batch average (SN, arXiv v1, Section 2.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
