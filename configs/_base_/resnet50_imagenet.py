# ResNet-50 on ImageNet as in the SN paper (arXiv v1, Section 4.1): 100 epochs, 0.1 at every batch, a tenth after 30, 60
# and 90, 1e-4 decay on everything, every gamma starts at 1; 8 GPUs of 32 images. --auto-scale-lr is the authors' code,
# a rate in proportion to the batch.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
custom_imports = dict(imports=['mmnorm'])

# Accuracy in training is logged beside that of validation.
model = dict(backbone=dict(zero_init_residual=False), head=dict(cal_acc=True))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
