# pix2pix, CMP Facades: IN in generator and discriminator.
_base_ = '../_base_/pix2pix_facades.py'
