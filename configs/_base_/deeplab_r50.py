# DeepLab with ResNet-50 as in the EN paper, Section 4.4: output stride 8, atrous rates 2 and 4 in the last two blocks,
# bilinear upsampling; SGD, 2 images a GPU, poly schedule. Auxiliary loss 0.4, power 0.9 and decay 1e-4 are those of
# SN's code.
_base_ = ['mmseg::_base_/models/deeplabv3_r50-d8.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmnorm'])

model = dict(
    # The start of the backbone is set by the configs that build on this one.
    pretrained=None,
    # The original 7x7 stem, so that an ImageNet checkpoint of the same norm fits.
    backbone=dict(type='ResNet', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)))

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4), clip_grad=None)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=10000, max_keep_ckpts=2, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
