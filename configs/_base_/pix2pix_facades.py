# pix2pix on CMP Facades as it is distributed (CMP_facade_DB_base.zip): photographs, cmp_b0001.jpg, and label maps with a
# palette, cmp_b0001.png, in data/facades/base. 378 pairs, of which the first 200 train, as many as in the ILM paper, and
# the rest test. Scaled to 286x286, of which 256x256 are cut out, and flipped (Isola et al., 6.2).
_base_ = './pix2pix.py'

load = dict(type='LoadPair')
pack = dict(type='PackPair')
train_pipeline = [
    load,
    dict(type='ResizePair', scale=(286, 286)),
    dict(type='RandomPairCrop', size=(256, 256)),
    dict(type='RandomFlip', prob=0.5),
    pack,
]
test_pipeline = [load, dict(type='ResizePair', scale=(256, 256)), pack]

dataset = dict(
    type='PairedImages', data_root='data/facades', data_prefix=dict(source='base', target='base'),
    suffix=dict(source='.png', target='.jpg'))
train_dataloader = dict(dataset=dict(indices=200, pipeline=train_pipeline, **dataset))
test_dataloader = dict(dataset=dict(indices=list(range(200, 378)), pipeline=test_pipeline, **dataset))
