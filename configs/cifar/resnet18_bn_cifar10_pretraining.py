# ResNet-18 on CIFAR-10 at twice its size: small pretraining that a CPU core does in minutes, for the backbone of
# segmentation/deeplab_bn_r18_camvid.py. tools/sweep.py sets length, batch, rate, norm and seed.
_base_ = './resnet20_bn_cifar10_sweep.py'

scale = (64, 64)
# As the segmentation config has them.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    backbone=dict(
        _delete_=True, type='ResNet', depth=18, num_stages=4, out_indices=(3,), style='pytorch',
        norm_cfg=dict(type='BN', requires_grad=True)),
    head=dict(in_channels=512))
load, flip, pack = _base_.train_pipeline
resize = dict(type='Resize', scale=scale)
train_pipeline = [load, resize, flip, pack]
test_pipeline = [load, resize, pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
