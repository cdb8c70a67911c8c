# pix2pix without data or weights to download: the label maps of the built-in digits scenes to the scenes, a small network,
# LPIPS on a random backbone, a minute on a CPU. ILM on IN in the generator.
_base_ = '../_base_/pix2pix.py'

norm_cfg = dict(type='ILM', base='IN', key_group_size=1, init='normal')
model = dict(
    generator=dict(num_downs=4, channels=16, norm_cfg=dict(_delete_=True, **norm_cfg)),
    discriminator=dict(num_downs=2, channels=16))
load = dict(type='LoadPair', palette='distinct')
pipeline = [load, dict(type='ResizePair', scale=(64, 64)), dict(type='PackPair')]
dataset = dict(type='PairedImages', data_root='data/digits/ade/ADEChallengeData2016', pipeline=pipeline)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_prefix=dict(source='annotations/training', target='images/training'), **dataset))
test_dataloader = dict(num_workers=0, dataset=dict(
    data_prefix=dict(source='annotations/validation', target='images/validation'), **dataset))
test_evaluator = dict(lpips_weights='random')
train_cfg = dict(max_epochs=4)
param_scheduler = dict(begin=1, end=5)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=1))
