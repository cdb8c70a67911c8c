"""Stylization by a feed-forward network: Johnson et al., arXiv 1603.08155; SN paper (1806.10779), Section 4.3."""

from .perceptual_loss import PerceptualLoss
from .stylizer import Stylizer
from .transformation_network import TransformationNetwork

__all__ = ['PerceptualLoss', 'Stylizer', 'TransformationNetwork']
