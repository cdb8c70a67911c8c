# DeepLab, ResNet-50, Cityscapes: BN statistics of all GPUs, everywhere.
_base_ = '../_base_/deeplab_r50_cityscapes.py'

# What configs/imagenet/resnet50_bn.py has trained; another by model.backbone.init_cfg.checkpoint=PATH.
pretrained = 'work_dirs/resnet50_bn/epoch_100.pth'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
