# DeepLab, ResNet-50, Cityscapes: Instance-Level Meta Normalization on GN, everywhere.
_base_ = '../_base_/deeplab_r50_cityscapes.py'

# What configs/imagenet/resnet50_ilm_gn.py has trained; another by model.backbone.init_cfg.checkpoint=PATH.
pretrained = 'work_dirs/resnet50_ilm_gn/epoch_100.pth'
norm_cfg = dict(type='ILM', base='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
