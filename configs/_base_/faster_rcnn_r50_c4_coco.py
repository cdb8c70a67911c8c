# Faster R-CNN with ResNet-50 on COCO without FPN (SN paper, Table 3): stage 4 is the backbone's last, stage 5 the head
# (roi_head.shared_head). 2x, 2 images a GPU, no weight decay on gamma and beta; 256 proposals a training image, as in
# the published SN config.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py']
custom_imports = dict(imports=['mmnorm'])

model = dict(
    # The stride is in the 3x3 convolution and the input is RGB, as the ImageNet configs have it.
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(style='pytorch', frozen_stages=-1, norm_eval=False),
    roi_head=dict(shared_head=dict(style='pytorch', norm_eval=False)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=256))))

train_cfg = dict(max_epochs=24)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=24, milestones=[16, 22], gamma=0.1),
]
optim_wrapper = dict(
    constructor='LearnedNormOptimWrapperConstructor', paramwise_cfg=dict(norm_decay_mult=0))
