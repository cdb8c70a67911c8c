# DeepLab, ResNet-50, ADE20K: Switchable Normalization everywhere, BN statistics of each GPU for itself.
_base_ = './_base_/deeplab_r50_ade20k.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with this
# norm), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'torchvision://resnet50'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')

# Next to BN with weights of a hub, which are BN's (docs/results.md); even with this norm's own, or none.
init_ratios = (0.01, 0.01, 0.98) if pretrained and '://' in pretrained else None
norm_cfg = dict(type='SN', init_ratios=init_ratios, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
# SN's inference: BN statistics by batch average (SN, arXiv v1, Section 2.1), before every evaluation and checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
