"""The layers that a config names: SN, EN and ILM, and the pool of normalizers they mix."""

from .exemplar_norm import ExemplarNorm1d, ExemplarNorm2d, ExemplarNorm3d
from .instance_meta_norm import InstanceMetaNorm1d, InstanceMetaNorm2d, InstanceMetaNorm3d
from .switchable_norm import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d

__all__ = [
    'ExemplarNorm1d',
    'ExemplarNorm2d',
    'ExemplarNorm3d',
    'InstanceMetaNorm1d',
    'InstanceMetaNorm2d',
    'InstanceMetaNorm3d',
    'SwitchableNorm1d',
    'SwitchableNorm2d',
    'SwitchableNorm3d',
]
