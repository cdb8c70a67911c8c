# DeepLab, ResNet-50, ADE20K: Exemplar Normalization, everywhere.
_base_ = '../_base_/deeplab_r50_ade20k.py'

# What configs/imagenet/resnet50_en.py has trained; another by model.backbone.init_cfg.checkpoint=PATH.
pretrained = 'work_dirs/resnet50_en/epoch_100.pth'
norm_cfg = dict(type='EN', reduction=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
# BN statistics by batch average (SN paper, Section 3.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
