"""The passes over the data: moments and affine, forward and backward."""

from .reference import accumulation_dtype, affine, moments, normalize

__all__ = ['accumulation_dtype', 'affine', 'moments', 'normalize']
