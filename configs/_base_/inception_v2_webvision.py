# Inception v2 (BN-Inception, arXiv 1502.03167) on WebVision 1.0, otherwise as ResNet-50.
_base_ = './resnet50_webvision.py'
custom_imports = dict(imports=['mmnorm', 'mmnorm.models'])

model = dict(backbone=dict(_delete_=True, type='InceptionV2'), head=dict(in_channels=1024))
