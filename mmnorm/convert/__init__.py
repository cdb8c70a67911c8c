"""Layers, configs and checkpoints from and to other norms."""

from .folding import fold
from .modules import convert_norm, revert_norm
from .report import ConversionReport

__all__ = ['ConversionReport', 'convert_norm', 'fold', 'revert_norm']
