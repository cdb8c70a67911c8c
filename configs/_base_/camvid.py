# CamVid with its usual 11 classes: data/camvid/{img,ann}/{train,val}, label maps of 0 to 10, 255 for void. A data set of
# your own in such folders needs a file like this one, with its classes and sizes.
metainfo = dict(
    classes=(
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist'),
    palette=[
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)])
# Width and height, and the crop that is trained on, height first.
scale = (480, 360)
crop_size = (320, 320)

load = dict(type='LoadImageFromFile')
annotations = dict(type='LoadAnnotations')
pack = dict(type='PackSegInputs')
train_pipeline = [
    load,
    annotations,
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    pack,
]
# Labels keep their own size, and so does what is compared with them.
test_pipeline = [load, dict(type='Resize', scale=scale, keep_ratio=True), annotations, pack]
tta_pipeline = [
    load,
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=s, keep_ratio=True) for s in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
        [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)], [annotations], [pack]]),
]

dataset = dict(
    type='BaseSegDataset', metainfo=metainfo, data_root='data/camvid', img_suffix='.jpg', seg_map_suffix='.png')
train_dataloader = dict(
    batch_size=2, num_workers=2, persistent_workers=True, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(data_prefix=dict(img_path='img/train', seg_map_path='ann/train'), pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(data_prefix=dict(img_path='img/val', seg_map_path='ann/val'), pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
