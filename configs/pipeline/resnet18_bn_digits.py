# Pretraining on the built-in digits with BN, for the backbone of faster_rcnn_bn_r18_fpn_digits.py.
_base_ = './resnet18_en_digits.py'

model = dict(backbone=dict(norm_cfg=dict(_delete_=True, type='BN', requires_grad=True)))
# Running statistics as they are.
custom_hooks = []
