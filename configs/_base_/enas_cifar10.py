# ENAS's micro search on CIFAR-10 (Pham et al., 1802.03268, Section 3.2) with a normalized LSTM as controller (SN, arXiv v1,
# Section 4.4): 45,000 training images in batches of 160 train the shared weights, then 30 steps train the controller, 10
# architectures each, on 5,000 images held out; 150 epochs. Optimizers are the ENAS paper's; batches, steps, widths and tanh
# constants those of its authors' search script. Left out of that: auxiliary head, dropout. A file that builds on it names
# the controller's norm.
_base_ = ['mmpretrain::_base_/default_runtime.py', './cifar10.py']
custom_imports = dict(imports=['mmnorm', 'mmnorm.models', 'mmnorm.datasets.search_dataset'])

# Statistics of each batch, in tests too: the shared weights are those of any architecture.
shared_norm = dict(type='BN', track_running_stats=False)
model = dict(
    type='EnasSearch',
    shared=dict(
        type='ImageClassifier',
        backbone=dict(type='EnasNetwork', nodes=5, cells=2, channels=20, drop_path=0.4, norm_cfg=shared_norm),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead', num_classes=10, in_channels=80, topk=(1,), loss=dict(type='CrossEntropyLoss'))),
    controller=dict(hidden_size=100, temperature=1.0, tanh_constant=1.1, operation_tanh_reduce=2.5),
    architectures=10, entropy_weight=1e-4, baseline_decay=0.99)

images = _base_.train_dataloader.dataset
train_dataloader = dict(
    batch_size=160,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='SearchBatchSampler', controller_steps=30),
    dataset=dict(
        _delete_=True, type='SearchDataset', held_out=5000,
        datasets=[{**images}, {**images, 'pipeline': _base_.test_pipeline}]))
val_dataloader = None
val_evaluator = None
# A batch of one class would have other statistics.
test_dataloader = dict(batch_size=160, sampler=dict(shuffle=True))

optim_wrapper = dict(
    constructor='PartsOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    parts=dict(
        shared=dict(clip_grad=dict(max_norm=5)),
        controller=dict(optimizer=dict(type='Adam', lr=3.5e-4))))
# From 0.05 to 0.001, and again, each time twice as long: T_0 = 10, T_mul = 2.
param_scheduler = dict(
    shared=[dict(
        type='CosineRestartLR', by_epoch=True, periods=[10, 20, 40, 80], restart_weights=[1, 1, 1, 1],
        eta_min=0.001)],
    controller=[])
train_cfg = dict(by_epoch=True, max_epochs=150)
val_cfg = None
test_cfg = dict()

# The reward that is logged at the end of an epoch is the mean of its 30 steps.
log_processor = dict(window_size=30)
default_hooks = dict(
    logger=dict(interval=1000, ignore_last=False),
    checkpoint=dict(interval=5, max_keep_ckpts=2))
# What is drawn depends on seed and iteration, also in a run that was resumed. A test begins with the choice of a cell.
custom_hooks = [dict(type='ExactResumeHook'), dict(type='DeriveHook', architectures=10)]
randomness = dict(seed=0)
