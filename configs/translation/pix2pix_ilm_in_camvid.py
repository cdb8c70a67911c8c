# A small pix2pix for a CPU core, CamVid's label maps to photographs of 128x96: Instance-Level Meta Normalization on IN in
# the generator, IN in the discriminator.
_base_ = './pix2pix_in_camvid.py'

norm_cfg = dict(type='ILM', base='IN', key_group_size=1, init='normal')
model = dict(generator=dict(norm_cfg=dict(_delete_=True, **norm_cfg)))
