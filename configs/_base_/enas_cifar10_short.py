# What docs/nas.md compares norms by: ENAS on CIFAR-10 as image files, in minutes on a CPU core. Images of 16x16, cells of 3
# nodes, 8 channels, no restarts; an epoch is 60 steps of the shared weights and 10 of the controller with 4 architectures.
# Files that build on it name the controller's norm.
_base_ = './enas_cifar10.py'

model = dict(
    shared=dict(
        backbone=dict(nodes=3, cells=1, channels=8, drop_path=0.0),
        head=dict(in_channels=32)),
    controller=dict(hidden_size=64),
    # A short search needs a baseline that follows its rewards sooner, and larger steps.
    architectures=4, baseline_decay=0.9)

# Files are read as BGR.
data_preprocessor = dict(to_rgb=True)
load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16))]
pack = [dict(type='PackInputs')]
files = dict(type='CustomDataset', data_root='data/cifar10_images', data_prefix='train')
flipped = dict(pipeline=[*load, dict(type='RandomFlip', prob=0.5, direction='horizontal'), *pack], **files)
plain = dict(pipeline=[*load, *pack], **files)
loader = dict(batch_size=64, num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_sampler=dict(controller_steps=10, training_steps=60),
    dataset=dict(datasets=[flipped, plain]), **loader)
test_dataloader = dict(
    dataset=dict(_delete_=True, **{**plain, 'data_prefix': 'test'}), **{**loader, 'batch_size': 500})

max_epochs = 30
optim_wrapper = dict(parts=dict(controller=dict(optimizer=dict(lr=3.5e-3))))
param_scheduler = dict(
    _delete_=True, shared=[dict(type='CosineAnnealingLR', by_epoch=True, T_max=max_epochs, eta_min=0.001)],
    controller=[])
train_cfg = dict(max_epochs=max_epochs)
log_processor = dict(window_size=10)
