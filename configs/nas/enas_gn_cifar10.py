# ENAS on CIFAR-10, the controller's LSTM with GN, of the gates one group each.
_base_ = '../_base_/enas_cifar10.py'

model = dict(controller=dict(norm_cfg=dict(type='GN', num_groups=4)))
