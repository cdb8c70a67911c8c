# ResNet-20 (56 and 110 by model.backbone.depth), CIFAR-100: Exemplar Normalization, r = 8, half the smallest width.
_base_ = ['../_base_/resnet20_cifar.py', '../_base_/cifar100.py']

model = dict(backbone=dict(norm_cfg=dict(type='EN', reduction=8, requires_grad=True)), head=dict(num_classes=100))
# The EN paper does not say how it tests; as in SN: BN statistics by batch average, before evaluations and checkpoints.
custom_hooks = [dict(type='BatchAverageHook')]
