"""Layers, configs and checkpoints from and to other norms."""

from .modules import convert_norm, revert_norm
from .report import ConversionReport

__all__ = ['ConversionReport', 'convert_norm', 'revert_norm']
