# ResNet-50, ImageNet: Switchable Normalization without BN in the pool, for one image a GPU.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='SN', normalizers=('IN', 'LN'), requires_grad=True)))
