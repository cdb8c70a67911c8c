# ResNet-101 on CIFAR as in the ILM paper (Section 4.1.1): 3x3 stem without pooling, batches of 64 on one GPU, 350
# epochs, 0.1 at every batch, a tenth after 150 and 250, decay 5e-4. --auto-scale-lr is the authors' code, a rate in
# proportion to the batch, 0.1 for 256. A file that builds on it adds the data.
_base_ = ['mmpretrain::_base_/models/resnet50_cifar.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmnorm'])

model = dict(backbone=dict(depth=101, zero_init_residual=False), head=dict(cal_acc=True))

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150, 250], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=350, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=256)
