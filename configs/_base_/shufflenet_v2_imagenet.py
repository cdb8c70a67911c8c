# ShuffleNet v2 x0.5 on ImageNet by the protocol of its own paper, as mmpretrain has it: batches of 1,024, rate 0.5
# that falls linearly, 300 epochs, decay 4e-5 (none on gamma and beta).
_base_ = 'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py'
custom_imports = dict(imports=['mmnorm'])

model = dict(backbone=dict(widen_factor=0.5))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
