# Faster R-CNN, ResNet-50, C4, COCO: Group Normalization, in all five stages, from scratch, by the same schedule.
_base_ = './faster_rcnn_gn_r50_c4.py'

model = dict(
    # There are no weights that expect something else.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(init_cfg=None, zero_init_residual=False),
    roi_head=dict(shared_head=dict(init_cfg=None)))
