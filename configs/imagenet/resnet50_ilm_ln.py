# ResNet-50, ImageNet: Instance-Level Meta Normalization on LN at the paper's rate of 0.025, for 64 images.
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='ILM', base='LN', requires_grad=True)))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.025))
auto_scale_lr = dict(base_batch_size=64)
