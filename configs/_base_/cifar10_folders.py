# CIFAR-10, or any other images of 32x32, as files: data/cifar10_images/{train,test}/<class>/*. Takes the place of
# cifar10.py in a config's _base_.
_base_ = './cifar10.py'

data_root = 'data/cifar10_images'
# Files are read as BGR.
data_preprocessor = dict(to_rgb=True)
load = dict(type='LoadImageFromFile')
dataset = dict(_delete_=True, type='CustomDataset', data_root=data_root)
train_dataloader = dict(
    dataset=dict(data_prefix='train', pipeline=[load, *_base_.train_pipeline], **dataset))
val_dataloader = dict(
    dataset=dict(data_prefix='test', pipeline=[load, *_base_.test_pipeline], **dataset))
test_dataloader = val_dataloader
