# ShuffleNet v2 x0.5, ImageNet: Batch Normalization.
_base_ = '../_base_/shufflenet_v2_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=True)))
