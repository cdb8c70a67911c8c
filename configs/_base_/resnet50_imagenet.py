# ResNet-50 on ImageNet as in the three papers: 100 epochs, steps at 30, 60 and 90, 1e-4 decay on everything, every
# gamma starts at 1. Rate 0.1 for a batch of 256 (8 GPUs of 32), and in proportion for others: --auto-scale-lr.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['mmnorm'])

model = dict(backbone=dict(zero_init_residual=False))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
