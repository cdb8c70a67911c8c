# ShuffleNet v2 x0.5, ImageNet: Exemplar Normalization, r = 8.
_base_ = '../_base_/shufflenet_v2_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='EN', reduction=8, requires_grad=True)))
# The EN paper does not say how it tests; as in SN: BN statistics by batch average, before evaluations and checkpoints.
custom_hooks = [dict(type='BatchAverageHook')]
