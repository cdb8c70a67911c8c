# Johnson's transformation network, COCO's images as content: BN.
_base_ = '../_base_/johnson.py'

model = dict(network=dict(norm_cfg=dict(type='BN')))
