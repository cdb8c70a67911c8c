"""Scenes composed of real handwritten digits, and writers that store them as the usual datasets do."""

from .digit_scenes import CLASSES, PALETTE, Instance, Scene, compose_scene, digit_indices, single_digit
from .manifest import LayoutConflictError
from .writers import IMAGENET_CLASSES, LAYOUTS, Layout, write_layout

__all__ = [
    'CLASSES',
    'IMAGENET_CLASSES',
    'LAYOUTS',
    'PALETTE',
    'Instance',
    'Layout',
    'LayoutConflictError',
    'Scene',
    'compose_scene',
    'digit_indices',
    'single_digit',
    'write_layout',
]
