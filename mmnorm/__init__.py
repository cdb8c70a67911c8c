"""Learned normalization for OpenMMLab: Switchable (SN), Exemplar (EN) and Instance-Level Meta Normalization (ILM).

Importing the package registers the layers, so that a config may say ``norm_cfg=dict(type='EN')``.
"""

from . import prerequisites  # noqa: F401  refuses what is too old, before anything needs it

# isort: split
from .convert import ConversionReport, FusionReport, convert_norm, fold, fuse, revert_norm, unfuse
from .convert.configs import register_builder, set_norm
from .engine.batch_average import update_bn_stats
from .engine.config_packages import resolve_config_packages
from .engine.own_configs import let_mmengine_find_them
from .engine.register import register_engine
from .layers import (
    BatchChannelNorm1d,
    BatchChannelNorm2d,
    BatchChannelNorm3d,
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    ExemplarNorm1d,
    ExemplarNorm2d,
    ExemplarNorm3d,
    FilterResponseNorm1d,
    FilterResponseNorm2d,
    FilterResponseNorm3d,
    GlobalResponseNorm1d,
    GlobalResponseNorm2d,
    GlobalResponseNorm3d,
    InstanceBatchNorm1d,
    InstanceBatchNorm2d,
    InstanceBatchNorm3d,
    InstanceEnhancementBatchNorm1d,
    InstanceEnhancementBatchNorm2d,
    InstanceEnhancementBatchNorm3d,
    InstanceMetaNorm1d,
    InstanceMetaNorm2d,
    InstanceMetaNorm3d,
    LearnedNorm,
    PooledNorm,
    RepresentativeBatchNorm1d,
    RepresentativeBatchNorm2d,
    RepresentativeBatchNorm3d,
    SelfNorm1d,
    SelfNorm2d,
    SelfNorm3d,
    SparseSwitchableNorm1d,
    SparseSwitchableNorm2d,
    SparseSwitchableNorm3d,
    SwitchableNorm1d,
    SwitchableNorm2d,
    SwitchableNorm3d,
    ThresholdedLinearUnit,
)
from .layers.norm_eval import apply_norm_eval
from .layers.param_groups import param_groups
from .ops import backend_for, get_backend, set_backend
from .registry import NORM_LAYERS, finish_import, register
from .version import __version__

register_builder()
register_engine()
finish_import()
resolve_config_packages()
let_mmengine_find_them()

__all__ = [
    'NORM_LAYERS',
    'ConversionReport',
    'ExemplarNorm1d',
    'ExemplarNorm2d',
    'ExemplarNorm3d',
    'FusionReport',
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
    '__version__',
    'apply_norm_eval',
    'backend_for',
    'convert_norm',
    'fold',
    'fuse',
    'get_backend',
    'param_groups',
    'register',
    'revert_norm',
    'set_backend',
    'set_norm',
    'unfuse',
    'update_bn_stats',
    'BatchChannelNorm1d',
    'BatchChannelNorm2d',
    'BatchChannelNorm3d',
    'BatchRenorm1d',
    'BatchRenorm2d',
    'BatchRenorm3d',
    'FilterResponseNorm1d',
    'FilterResponseNorm2d',
    'FilterResponseNorm3d',
    'GlobalResponseNorm1d',
    'GlobalResponseNorm2d',
    'GlobalResponseNorm3d',
    'InstanceBatchNorm1d',
    'InstanceBatchNorm2d',
    'InstanceBatchNorm3d',
    'InstanceEnhancementBatchNorm1d',
    'InstanceEnhancementBatchNorm2d',
    'InstanceEnhancementBatchNorm3d',
    'RepresentativeBatchNorm1d',
    'RepresentativeBatchNorm2d',
    'RepresentativeBatchNorm3d',
    'SelfNorm1d',
    'SelfNorm2d',
    'SelfNorm3d',
    'ThresholdedLinearUnit',
]
