# ENAS on CIFAR-10, the controller's LSTM with LN.
_base_ = '../_base_/enas_cifar10.py'

model = dict(controller=dict(norm_cfg=dict(type='LN')))
