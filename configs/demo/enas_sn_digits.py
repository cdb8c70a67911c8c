# ENAS in minutes on a CPU, without data to download: cells of 3 nodes that tell the built-in digits apart, the controller's
# LSTM with SN of LN and GN. Its data: mmnorm digits imagenet --size 32 32 --train 1500
_base_ = '../nas/enas_sn_cifar10.py'

model = dict(
    shared=dict(
        backbone=dict(nodes=3, cells=1, channels=8, drop_path=0.0),
        head=dict(in_channels=32)),
    controller=dict(hidden_size=32),
    # A short search needs a baseline that follows its rewards sooner, and larger steps.
    architectures=4, baseline_decay=0.9)

# Classes in the order in which readers of class folders number them.
classes = ('eight', 'five', 'four', 'nine', 'one', 'seven', 'six', 'three', 'two', 'zero')
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')]
digits = dict(
    type='CustomDataset', data_root='data/digits/imagenet', data_prefix='train', metainfo=dict(classes=classes),
    pipeline=pipeline)
train_dataloader = dict(
    batch_size=32, num_workers=0, persistent_workers=False,
    batch_sampler=dict(controller_steps=10),
    dataset=dict(_delete_=True, type='SearchDataset', held_out=300, datasets=[digits, digits]))
test_dataloader = dict(
    batch_size=100, num_workers=0, persistent_workers=False,
    dataset=dict(_delete_=True, **{**digits, 'data_prefix': 'val'}))

optim_wrapper = dict(parts=dict(controller=dict(optimizer=dict(lr=3.5e-3))))
param_scheduler = dict(
    shared=[dict(type='CosineAnnealingLR', by_epoch=True, T_max=20, eta_min=0.001)])
train_cfg = dict(max_epochs=20)
log_processor = dict(window_size=10)
