# CIFAR-100 in the published format (data/cifar100/cifar-100-python), crops of the padded image and flips.
_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
# The ILM paper has both.
val_evaluator = dict(topk=(1, 5))
test_evaluator = val_evaluator
