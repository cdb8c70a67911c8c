"""The passes over the data: moments and affine, forward and backward."""

from .reference import affine, moments, normalize

__all__ = ['affine', 'moments', 'normalize']
