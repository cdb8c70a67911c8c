# Johnson's transformation network without data or weights to download: the built-in digits scenes as content, random
# features of VGG16, in minutes on a CPU. SN; other norms by --cfg-options model.network.norm_cfg.type=IN.
_base_ = '../_base_/johnson.py'

size = 64
model = dict(
    network=dict(norm_cfg=dict(type='SN'), channels=16, num_blocks=3),
    loss=dict(vgg='random', style_size=size))
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(size, size)), dict(type='PackImage')]
dataset = dict(data_root='data/digits/ade/ADEChallengeData2016/images', pipeline=pipeline)
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_prefix=dict(img_path='training'), **dataset))
test_dataloader = dict(num_workers=0, dataset=dict(data_prefix=dict(img_path='validation'), **dataset))
train_cfg = dict(max_iters=200)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=100))
