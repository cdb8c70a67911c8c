# ENAS on CIFAR-10 in minutes on a CPU core, the controller's LSTM with LN.
_base_ = '../_base_/enas_cifar10_short.py'

model = dict(controller=dict(norm_cfg=dict(type='LN')))
