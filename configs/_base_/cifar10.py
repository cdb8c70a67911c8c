# CIFAR-10 in the published format (data/cifar10/cifar-10-batches-py), crops of the padded image and flips.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
