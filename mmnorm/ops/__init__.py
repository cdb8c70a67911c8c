"""What the layers are made of: passes over the data, steps of the coefficients, and who runs them."""

from .activation import ACTIVATIONS, Activation, activation_of
from .backend import backend_for, get_backend, set_backend
from .coefficients import (
    RunningStats,
    correlate,
    group_moments,
    mix_outputs,
    mix_statistics,
    perceptron,
    pool,
    rescale,
    update_running_stats,
)
from .normalize import moments, normalize
from .passes.reference import accumulation_dtype

__all__ = [
    'ACTIVATIONS',
    'Activation',
    'RunningStats',
    'accumulation_dtype',
    'activation_of',
    'backend_for',
    'correlate',
    'get_backend',
    'group_moments',
    'mix_outputs',
    'mix_statistics',
    'moments',
    'normalize',
    'perceptron',
    'pool',
    'rescale',
    'set_backend',
    'update_running_stats',
]
