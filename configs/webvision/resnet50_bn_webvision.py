# ResNet-50, WebVision: Batch Normalization.
_base_ = '../_base_/resnet50_webvision.py'

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=True)))
