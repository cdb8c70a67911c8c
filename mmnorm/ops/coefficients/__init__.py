"""The steps that scale and shift of the planes are made of, from their moments: pools, and the kinds of mixing.

Each is one function, written with plain operators: that is its formula, and what runs under torch.compile, in exported
graphs, under transforms, and for gradients of gradients. Where a backend has a kernel of the same name, that runs.
"""

from .mixing import correlate, mix_outputs, mix_statistics, rescale
from .nets import perceptron
from .pool import RunningStats, group_moments, pool, update_running_stats

__all__ = [
    'RunningStats',
    'correlate',
    'group_moments',
    'mix_outputs',
    'mix_statistics',
    'perceptron',
    'pool',
    'rescale',
    'update_running_stats',
]
