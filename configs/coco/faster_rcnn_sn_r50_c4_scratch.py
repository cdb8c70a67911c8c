# Faster R-CNN, ResNet-50, C4, COCO: Switchable Normalization, in all five stages, from scratch.
_base_ = './faster_rcnn_sn_r50_c4.py'

model = dict(
    backbone=dict(init_cfg=None, zero_init_residual=False),
    roi_head=dict(shared_head=dict(init_cfg=None)))

# As long as the published SN config of this kind: 270,000 iterations, steps at 210,000 and 250,000.
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[28, 33], gamma=0.1),
]
