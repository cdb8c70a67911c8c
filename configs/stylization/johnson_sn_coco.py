# Johnson's transformation network, COCO's images as content: SN.
_base_ = '../_base_/johnson.py'

model = dict(network=dict(norm_cfg=dict(type='SN')))
# SN's inference: BN statistics by batch average (SN, arXiv v1, Section 2.1), before every checkpoint.
custom_hooks = [dict(type='BatchAverageHook')]
