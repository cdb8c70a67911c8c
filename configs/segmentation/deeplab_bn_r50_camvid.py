# DeepLab, ResNet-50, CamVid from scratch at 2 images a GPU, 60 epochs on one: BN, and any other norm by --norm.
_base_ = ['../_base_/deeplab_r50.py', '../_base_/camvid.py']

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg, num_classes=11),
    auxiliary_head=dict(norm_cfg=norm_cfg, num_classes=11))

max_iters = 11000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1000)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=1000))
