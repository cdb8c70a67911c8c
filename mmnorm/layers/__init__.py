"""The layers that a config names, a file each, and their bases."""

from .base import LearnedNorm
from .exemplar_norm import ExemplarNorm1d, ExemplarNorm2d, ExemplarNorm3d
from .instance_meta_norm import InstanceMetaNorm1d, InstanceMetaNorm2d, InstanceMetaNorm3d
from .pooled import PooledNorm
from .sparse_switchable_norm import SparseSwitchableNorm1d, SparseSwitchableNorm2d, SparseSwitchableNorm3d
from .switchable_norm import SwitchableNorm1d, SwitchableNorm2d, SwitchableNorm3d

# isort: split
# After those of the three papers, which messages name first.
from .batch_channel_norm import BatchChannelNorm1d, BatchChannelNorm2d, BatchChannelNorm3d
from .batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from .filter_response_norm import FilterResponseNorm1d, FilterResponseNorm2d, FilterResponseNorm3d
from .global_response_norm import GlobalResponseNorm1d, GlobalResponseNorm2d, GlobalResponseNorm3d
from .instance_batch_norm import InstanceBatchNorm1d, InstanceBatchNorm2d, InstanceBatchNorm3d
from .instance_enhancement_batch_norm import (
    InstanceEnhancementBatchNorm1d,
    InstanceEnhancementBatchNorm2d,
    InstanceEnhancementBatchNorm3d,
)
from .representative_batch_norm import RepresentativeBatchNorm1d, RepresentativeBatchNorm2d, RepresentativeBatchNorm3d
from .self_norm import SelfNorm1d, SelfNorm2d, SelfNorm3d
from .thresholded_linear_unit import ThresholdedLinearUnit

__all__ = [
    'BatchChannelNorm1d',
    'BatchChannelNorm2d',
    'BatchChannelNorm3d',
    'BatchRenorm1d',
    'BatchRenorm2d',
    'BatchRenorm3d',
    'ExemplarNorm1d',
    'ExemplarNorm2d',
    'ExemplarNorm3d',
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
    'InstanceMetaNorm1d',
    'InstanceMetaNorm2d',
    'InstanceMetaNorm3d',
    'LearnedNorm',
    'PooledNorm',
    'RepresentativeBatchNorm1d',
    'RepresentativeBatchNorm2d',
    'RepresentativeBatchNorm3d',
    'SelfNorm1d',
    'SelfNorm2d',
    'SelfNorm3d',
    'SparseSwitchableNorm1d',
    'SparseSwitchableNorm2d',
    'SparseSwitchableNorm3d',
    'SwitchableNorm1d',
    'SwitchableNorm2d',
    'SwitchableNorm3d',
    'ThresholdedLinearUnit',
]
