# pix2pix, CMP Facades: Instance-Level Meta Normalization on IN, each channel a key group, in generator and discriminator.
_base_ = '../_base_/pix2pix_facades.py'

norm_cfg = dict(type='ILM', base='IN', key_group_size=1, init='normal')
model = dict(
    generator=dict(norm_cfg=dict(_delete_=True, **norm_cfg)),
    discriminator=dict(norm_cfg=dict(_delete_=True, **norm_cfg)))
