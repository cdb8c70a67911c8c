# ResNet-50, ImageNet: Exemplar Normalization, r = 32, batches of 128 (EN paper, Section 4.1): 8 GPUs of 16 images.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='EN', reduction=32, requires_grad=True)))
train_dataloader = dict(batch_size=16)
custom_hooks = [
    # The EN paper does not say how it tests; as in SN: BN statistics by batch average, before evaluations and
    # checkpoints.
    dict(type='BatchAverageHook'),
    dict(type='NormRatioHook', interval=1000),
]
# The figures over training (1a, 5, 6 and 8) are of the checkpoints of all epochs: 21 GB, and 10 without the optimizer.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
