"""Image translation by pix2pix: Isola et al., arXiv 1611.07004; ILM paper (1904.03516), Section 4.4."""

from .patch_discriminator import PatchDiscriminator
from .pix2pix import Pix2Pix
from .unet_generator import UNetGenerator

__all__ = ['PatchDiscriminator', 'Pix2Pix', 'UNetGenerator']
