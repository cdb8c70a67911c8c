"""The layers that a config names, a file each, and their bases."""

from .base import LearnedNorm
from .exemplar_norm import ExemplarNorm1d, ExemplarNorm2d, ExemplarNorm3d
from .instance_meta_norm import InstanceMetaNorm1d, InstanceMetaNorm2d, InstanceMetaNorm3d
from .pooled import PooledNorm
from .sparse_switchable_norm import SparseSwitchableNorm1d, SparseSwitchableNorm2d, SparseSwitchableNorm3d
from .switchable_norm import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d

__all__ = [
    'ExemplarNorm1d',
    'ExemplarNorm2d',
    'ExemplarNorm3d',
    'InstanceMetaNorm1d',
    'InstanceMetaNorm2d',
    'InstanceMetaNorm3d',
    'LearnedNorm',
    'PooledNorm',
    'SparseSwitchableNorm1d',
    'SparseSwitchableNorm2d',
    'SparseSwitchableNorm3d',
    'SwitchableNorm1d',
    'SwitchableNorm2d',
    'SwitchableNorm3d',
]
