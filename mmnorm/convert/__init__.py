"""Layers, configs and checkpoints from and to other norms; what follows a norm, in its pass."""

from .folding import fold
from .fusion import FusionReport, fuse, unfuse
from .modules import convert_norm, revert_norm
from .report import ConversionReport

__all__ = ['ConversionReport', 'FusionReport', 'convert_norm', 'fold', 'fuse', 'revert_norm', 'unfuse']
