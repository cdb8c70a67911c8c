# ShuffleNet v2 x0.5, ImageNet: Switchable Normalization.
_base_ = '../_base_/shufflenet_v2_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='SN', requires_grad=True)))
# SN's inference: BN statistics by batch average (SN, arXiv v1, Section 2.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
