# ResNet-20 of the ResNet paper (also 56, 110) on CIFAR as in the EN paper (Section 4.3): batches of 128 on one GPU, 165
# epochs, from 0 to 0.1 in the first, a tenth after 80 and 120. A file that builds on it adds the data.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmnorm', 'mmnorm.models'])

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ThinResNetCIFAR', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss'), cal_acc=True))

# Momentum and decay are not stated; they are the ResNet paper's.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    # From 0, which mmengine does not take.
    dict(type='LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[80, 120], gamma=0.1),
]
train_cfg = dict(by_epoch=True, max_epochs=165, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=128)
