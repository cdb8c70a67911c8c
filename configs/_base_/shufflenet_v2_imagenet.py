# ShuffleNet v2 x0.5 on ImageNet as the EN paper has it (Section 4.1): "Adam optimizer with the initial learning rate
# 0.1", batches of 128, 8 GPUs of 16 images. The rest is mmpretrain's for this network: a linear fall over 300 epochs,
# decay 4e-5 (none on gamma and beta). ShuffleNet v2's own SGD from 0.5 at 1,024 images is
# optim_wrapper.optimizer.type=SGD optim_wrapper.optimizer.lr=0.5 optim_wrapper.optimizer.momentum=0.9 and 16 GPUs of
# 64.
_base_ = 'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py'
custom_imports = dict(imports=['mmnorm'])

model = dict(backbone=dict(widen_factor=0.5), head=dict(cal_acc=True))
train_dataloader = dict(batch_size=16)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=0.1, weight_decay=4e-5))
# From the initial rate on, without the ten times smaller start that mmpretrain has.
param_scheduler = [dict(type='PolyLR', eta_min=0, by_epoch=False, begin=0)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
