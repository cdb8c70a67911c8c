# Mask R-CNN with ResNet-50 and FPN on COCO, 2x (SN paper, arXiv v1, Section 4.2, setting-3): the norm in backbone, FPN,
# box head (4 convolutions, 1 FC) and mask head; 2 images a GPU; 2,000 proposals in training; no weight decay on gamma
# and beta.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py'
custom_imports = dict(imports=['mmnorm'])

model = dict(
    # These norms do not depend on the batch, so nothing has to be frozen.
    backbone=dict(frozen_stages=-1, norm_eval=False),
    roi_head=dict(bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=2000)))

optim_wrapper = dict(
    constructor='LearnedNormOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0))
