# A cell that a search has found, on CIFAR-10, as ENAS trains it (Pham et al., 1802.03268, and its authors' script): 3 stages
# of 5 cells, 36 channels, batches of 144, 630 epochs, cosine with restarts from 0.05 to 0.0001, decay 0.0002. Left out of that:
# auxiliary head, dropout. The cell of a search of your own:
# --cfg-options model.backbone.genotype=work_dirs/enas_sn_cifar10/genotype.json
# The one below is the micro cell of the ENAS paper (Fig. 8), as its authors' script gives it.
_base_ = ['mmpretrain::_base_/default_runtime.py', '../_base_/cifar10.py']
custom_imports = dict(imports=['mmnorm', 'mmnorm.models'])

genotype = (
    '0:avg_pool_3x3+0:sep_conv_3x3/'
    '0:identity+0:sep_conv_5x5/'
    '0:identity+1:sep_conv_5x5/'
    '1:sep_conv_3x3+0:sep_conv_5x5/'
    '0:avg_pool_3x3+1:sep_conv_5x5//'
    '1:sep_conv_3x3+1:sep_conv_3x3/'
    '0:max_pool_3x3+0:avg_pool_3x3/'
    '1:sep_conv_5x5+3:sep_conv_5x5/'
    '1:sep_conv_3x3+0:identity/'
    '0:max_pool_3x3+1:sep_conv_5x5')
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='EnasNetwork', genotype=genotype, cells=5, channels=36, drop_path=0.4,
        norm_cfg=dict(type='BN', requires_grad=True)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=144, topk=(1,), loss=dict(type='CrossEntropyLoss')))

train_dataloader = dict(batch_size=144)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True, weight_decay=2e-4), clip_grad=dict(max_norm=5))
param_scheduler = [
    dict(
        type='CosineRestartLR', by_epoch=True, periods=[10, 20, 40, 80, 160, 320], restart_weights=[1] * 6,
        eta_min=0.0001)]
# A cell that does not take its last input may leave another without any effect.
find_unused_parameters = True
train_cfg = dict(by_epoch=True, max_epochs=630, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=2))
