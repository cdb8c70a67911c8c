# pix2pix from CamVid's label maps to its photographs: data/camvid/{img,ann}/{train,val}, 480x360, 11 classes in their
# usual colours, void black.
_base_ = './pix2pix.py'

palette = [
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)]
load = dict(type='LoadPair', palette=palette)
# Width and height; multiples of 32, as the generator halves them five times.
scale = (128, 96)
pipeline = [load, dict(type='ResizePair', scale=scale), dict(type='PackPair')]
train_pipeline = [*pipeline[:2], dict(type='RandomFlip', prob=0.5), pipeline[2]]

dataset = dict(type='PairedImages', data_root='data/camvid')
train_dataloader = dict(dataset=dict(
    data_prefix=dict(source='ann/train', target='img/train'), pipeline=train_pipeline, **dataset))
test_dataloader = dict(dataset=dict(
    data_prefix=dict(source='ann/val', target='img/val'), pipeline=pipeline, **dataset))
