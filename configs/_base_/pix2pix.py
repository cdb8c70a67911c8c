# pix2pix as in Section 4.4 of the ILM paper (200 epochs) and, where it says nothing, in Isola et al. (1611.07004): U-Net
# generator and 70x70 PatchGAN, 100 times the L1 distance, dropout as the only noise, one image a batch, Adam at 0.0002
# with a first moment of 0.5, constant for the first half and linearly towards 0 over the second, which epoch 201 would
# have (as the authors' later code). A file that builds on it names data and norms.
_base_ = './runtime_images.py'

model = dict(
    type='Pix2Pix',
    generator=dict(type='UNetGenerator', norm_cfg=dict(type='IN', affine=True)),
    discriminator=dict(type='PatchDiscriminator', norm_cfg=dict(type='IN', affine=True)),
    l1_weight=100.0)

train_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=True))
test_dataloader = dict(batch_size=1, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=False))
# lpips_weights: 'torchvision' (downloaded at the first test), the path of such a file, or 'random'.
test_evaluator = dict(type='ImageSimilarity', lpips_net='alex', lpips_weights='torchvision')

optim_wrapper = dict(
    constructor='PartsOptimWrapperConstructor',
    optimizer=dict(type='Adam', lr=2e-4, betas=(0.5, 0.999), weight_decay=0),
    parts=dict(generator=dict(), discriminator=dict()))
param_scheduler = dict(type='LinearLR', start_factor=1.0, end_factor=0.0, begin=99, end=201, by_epoch=True)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200)
test_cfg = dict(type='TestLoop')
# Each part has gradients of its own to exchange.
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')

default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=10, save_param_scheduler=True))
log_processor = dict(by_epoch=True)
