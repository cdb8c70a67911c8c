# ENAS on CIFAR-10 in minutes on a CPU core, the controller's LSTM with SN of LN and GN.
_base_ = '../_base_/enas_cifar10_short.py'

model = dict(controller=dict(norm_cfg=dict(type='SN', normalizers=('LN', 'GN'), num_groups=4)))
