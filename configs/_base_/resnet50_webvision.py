# ResNet-50 on WebVision 1.0, trained as on ImageNet: 2.4 million images from Google and Flickr with the labels of the
# queries, tested on WebVision's clean validation images. The folder is laid out as it is distributed.
_base_ = './resnet50_imagenet.py'

data_root = 'data/webvision'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='CustomDataset', data_root=data_root, ann_file=f'info/train_filelist_{source}.txt',
                pipeline=_base_.train_pipeline) for source in ('google', 'flickr')
        ]))
val_dataloader = dict(
    dataset=dict(
        _delete_=True, type='CustomDataset', data_root=data_root, ann_file='info/val_filelist.txt',
        data_prefix='val_images_256', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
