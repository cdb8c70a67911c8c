"""The passes over the data: moments and affine, forward and backward, in several implementations."""

from .backend import get_backend, set_backend
from .fused import normalize
from .reference import accumulation_dtype, moments

__all__ = ['accumulation_dtype', 'get_backend', 'moments', 'normalize', 'set_backend']
