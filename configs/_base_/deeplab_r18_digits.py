# A small DeepLab on the built-in digits scenes (tools/make_digits.py ade20k): ResNet-18 with atrous rate 2
# in the last block (output stride 16), 64x64 images, 2 a batch, 11 classes. It trains in minutes on a CPU.
_base_ = ['mmseg::_base_/models/deeplabv3_r50-d8.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmnorm'])

digits = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
metainfo = dict(classes=('background', *digits), palette=[
    (40, 40, 40), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)])
size = (64, 64)

model = dict(
    data_preprocessor=dict(size=size),
    pretrained=None,
    # Last gamma zero, mmseg's default, starts slower, and there are only minutes.
    backbone=dict(
        type='ResNet', depth=18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), zero_init_residual=False),
    # A linear classifier on the features of all four blocks, as in DeepLab-MSc (arXiv 1412.7062). Behind ASPP, which
    # needs a pretrained backbone, the network would tell digits from each other only after many more iterations.
    decode_head=dict(
        _delete_=True, type='FCNHead', in_channels=[64, 128, 256, 512], in_index=[0, 1, 2, 3],
        input_transform='resize_concat', channels=960, num_convs=0, concat_input=False, dropout_ratio=0,
        num_classes=11, align_corners=False, loss_decode=dict(type='CrossEntropyLoss')),
    auxiliary_head=None)

load = dict(type='LoadImageFromFile')
annotations = dict(type='LoadAnnotations', reduce_zero_label=True)
pack = dict(type='PackSegInputs')
train_pipeline = [load, annotations, pack]
test_pipeline = [load, annotations, pack]
tta_pipeline = [
    load,
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=s, keep_ratio=True) for s in (0.75, 1.0, 1.25, 1.5)], [annotations], [pack]]),
]

dataset = dict(
    type='BaseSegDataset', metainfo=metainfo, data_root='data/digits/ade/ADEChallengeData2016',
    img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True)
train_dataloader = dict(
    batch_size=2, num_workers=1, persistent_workers=True, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
                 pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    batch_size=1, num_workers=1, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
                 pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

max_iters = 1400
optim_wrapper = dict(
    # SGD, at 0.01, 0.04 and 0.08, came to 48 mIoU at most where AdamW came to 64.
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001, weight_decay=1e-4))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=25, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
randomness = dict(seed=0)
