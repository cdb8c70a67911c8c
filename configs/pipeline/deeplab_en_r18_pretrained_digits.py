# Step 2 of tools/pipeline.py, segmentation: the demo's DeepLab with EN, from the backbone of step 1 (ADE20K layout).
_base_ = '../demo/deeplab_en_r18_digits.py'

# Another checkpoint by model.backbone.init_cfg.checkpoint=PATH, nothing by model.backbone.init_cfg=None.
pretrained = 'work_dirs/pipeline/classification/iter_500.pth'
model = dict(
    backbone=dict(
        stem_channels=32, base_channels=32,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=480))

train_dataloader = dict(batch_size=16)
val_dataloader = dict(batch_size=16)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4))
max_iters = 160
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=max_iters))
custom_hooks = [dict(type='BatchAverageHook', num_iters=20)]
