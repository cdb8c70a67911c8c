# A small DeepLab on the built-in digits scenes (tools/make_digits.py ade20k): ResNet-18, output stride 8, 96x96 images,
# 4 a batch, 11 classes. It trains in minutes on a CPU.
_base_ = ['./deeplab_r50.py']

digits = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
metainfo = dict(classes=('background', *digits), palette=[
    (40, 40, 40), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)])
size = (96, 96)

model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(depth=18, init_cfg=None),
    decode_head=dict(
        in_channels=512, channels=128, dilations=(1, 2, 4, 6), num_classes=11, dropout_ratio=0),
    auxiliary_head=dict(in_channels=256, channels=64, num_classes=11, dropout_ratio=0))

load = dict(type='LoadImageFromFile')
annotations = dict(type='LoadAnnotations', reduce_zero_label=True)
pack = dict(type='PackSegInputs')
# Digits are not symmetric, so nothing is flipped.
train_pipeline = [
    load, annotations,
    dict(type='RandomResize', scale=size, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=size),
    pack,
]
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
    batch_size=4, num_workers=1, persistent_workers=True, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
                 pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    batch_size=1, num_workers=1, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
                 pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

max_iters = 500
optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=max_iters // 20, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=max_iters // 20, end=max_iters, by_epoch=False)]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=max_iters, save_best=None))
randomness = dict(seed=0)
