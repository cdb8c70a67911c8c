# ResNet-50, ImageNet: Instance-Level Meta Normalization on GN as in its paper (Section 4.1.1): one GPU of 64 images,
# 0.025, decay 5e-4 (the authors' script has 1e-4).
_base_ = '../_base_/resnet50_imagenet.py'

model = dict(backbone=dict(norm_cfg=dict(type='ILM', base='GN', num_groups=32, init='normal', requires_grad=True)))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.025, weight_decay=5e-4))
auto_scale_lr = dict(base_batch_size=64)
