# Mask R-CNN, ResNet-50, FPN, COCO: BN frozen in the backbone, no norm elsewhere, box head of 2 FC.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py'

model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=False)))
