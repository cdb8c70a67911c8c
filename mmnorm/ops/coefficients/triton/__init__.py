"""The steps of the coefficients as Triton kernels, each a node of autograd.

On a GPU the plain operators of a step cost their launches, some twenty, which is more than the passes over a small map.
"""

from .mixing import correlate, mix_outputs, mix_statistics, rescale
from .pools import group_moments, pool

KERNELS = {
    'pool': pool,
    'group_moments': group_moments,
    'mix_statistics': mix_statistics,
    'mix_outputs': mix_outputs,
    'correlate': correlate,
    'rescale': rescale,
}
