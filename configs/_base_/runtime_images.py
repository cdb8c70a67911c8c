# What systems that make images have in common: mmengine alone, in its own scope, and pictures by --show-dir.
default_scope = 'mmengine'
custom_imports = dict(
    imports=['mmnorm', 'mmnorm.models', 'mmnorm.datasets.image_folder', 'mmnorm.datasets.paired_images',
             'mmnorm.datasets.pair_transforms'])

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5000, max_keep_ckpts=3, save_param_scheduler=False),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PictureHook'))
log_processor = dict(by_epoch=False)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
env_cfg = dict(cudnn_benchmark=True, dist_cfg=dict(backend='nccl'))
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
