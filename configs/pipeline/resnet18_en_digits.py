# Step 1 of tools/pipeline.py, pretraining: ResNet-18 with EN tells the built-in digits apart (ImageNet layout).
_base_ = [
    'mmpretrain::_base_/models/resnet18.py', 'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmnorm'])

# Close to BN at the start, as in configs/demo.
norm_cfg = dict(type='EN', init_ratios=(0.05, 0.15, 0.8), requires_grad=True)
# Half as wide as usual, for a CPU.
model = dict(
    backbone=dict(stem_channels=32, base_channels=32, norm_cfg=norm_cfg),
    head=dict(num_classes=10, in_channels=256, topk=(1,)))

# Classes in the order in which readers of class folders number them.
classes = ('eight', 'five', 'four', 'nine', 'one', 'seven', 'six', 'three', 'two', 'zero')
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
dataset = dict(data_root='data/digits/imagenet', metainfo=dict(classes=classes), pipeline=pipeline)
data_preprocessor = dict(num_classes=10)
train_dataloader = dict(num_workers=1, persistent_workers=True, dataset=dataset)
val_dataloader = dict(num_workers=1, persistent_workers=True, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(topk=1)
test_evaluator = val_evaluator

max_iters = 500
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=max_iters // 4)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=max_iters))
custom_hooks = [dict(type='BatchAverageHook', num_iters=20)]
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
