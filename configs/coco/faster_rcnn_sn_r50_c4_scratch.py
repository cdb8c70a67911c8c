# Faster R-CNN, ResNet-50, C4, COCO: Switchable Normalization, in all five stages, from scratch, by the same schedule.
_base_ = './faster_rcnn_sn_r50_c4.py'

even = dict(init_ratios=None)
model = dict(
    backbone=dict(init_cfg=None, zero_init_residual=False, norm_cfg=even),
    roi_head=dict(shared_head=dict(init_cfg=None, norm_cfg=even)))
