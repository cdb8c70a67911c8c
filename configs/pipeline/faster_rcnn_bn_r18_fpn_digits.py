# A small Faster R-CNN with BN in backbone, FPN and box head on the built-in digits: what docs/results.md compares norms
# by in detection; any other norm by --norm. From scratch, unless model.backbone.init_cfg names a checkpoint.
_base_ = './faster_rcnn_en_r18_fpn_digits.py'

norm_cfg = dict(_delete_=True, type='BN', requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, init_cfg=dict(_delete_=True)),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(norm_cfg=norm_cfg)))
# Running statistics as they are.
custom_hooks = [dict(type='NormRatioHook', interval=50)]
