# DeepLab, ResNet-50, Cityscapes: Exemplar Normalization everywhere, BN statistics of each GPU for itself.
_base_ = './_base_/deeplab_r50_cityscapes.py'

# What the backbone starts from: an ImageNet checkpoint of your own (a path; trained by an mmpretrain config with this
# norm), OpenMMLab's weights (a name with ://), or nothing (None).
pretrained = 'torchvision://resnet50'
init_cfg = pretrained and dict(
    type='Pretrained', checkpoint=pretrained, prefix=None if '://' in pretrained else 'backbone.')

# Next to BN with weights of a hub, which are BN's (docs/results.md); even with this norm's own, or none.
init_ratios = (0.01, 0.01, 0.98) if pretrained and '://' in pretrained else None
norm_cfg = dict(type='EN', init_ratios=init_ratios, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=init_cfg),
    decode_head=dict(norm_cfg=norm_cfg),
    auxiliary_head=dict(norm_cfg=norm_cfg))
# The EN paper does not say how it tests; as in SN: BN statistics by batch average, before evaluations and checkpoints.
custom_hooks = [dict(type='BatchAverageHook')]
