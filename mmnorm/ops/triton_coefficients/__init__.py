"""The closed forms of the coefficients as Triton kernels: the same protocol, a few launches.

On a GPU the (N, C) operators of :mod:`..closed_form` cost their launches, some forty each way, which is more than
passes over a small map. Here a form is, per call of a layer,

| form | forward | backward |
| --- | --- | --- |
| SN | 2: pool, mix | 2: sums by sample, gradients by channel |
| EN | 2: pool, ratio net and mix | 2: ratio net and sums by sample, gradients by channel |
| EN with the MLP | 3, one of them a matrix product | 4, two of them matrix products |
| ILM | 2: pool, nets and mix | 2: nets and sums by sample, gradients by channel |

and one less forward for a pool of IN alone. The running statistics of BN are moved in the same launches, if the form is
given them as :class:`RunningStats`; else the pool's ``track`` is called with the pooled moments, and its operators come
on top. So do conversions where the MLP's parameters have another type than is computed in.

There are no atomics, nothing is tuned at run time, and the host waits for nothing: results are the same, bit by bit,
each time, and a CUDA graph can hold all of it.
"""

import torch
from torch import Tensor

from . import exemplar, instance_meta, pool
from .exemplar import ExemplarForm
from .instance_meta import InstanceMetaForm
from .pool import RunningStats
from .switchable import SwitchableForm

__all__ = ['ExemplarForm', 'InstanceMetaForm', 'RunningStats', 'SwitchableForm', 'supports']


def supports(form, samples: int, channels: int, *params: Tensor | None) -> bool:
    """Whether the kernels can do what a form says, on any GPU that Triton knows.

    Args:
        form: A form of this package or its twin of :mod:`mmnorm.ops.closed_form`.
        samples: N.
        channels: C.
        *params: The parameters that the form takes, in its order.

    Returns:
        False where something is too large for one program, or a pool has a normalizer twice.
    """
    # Offsets are 32 bits wide, and the longest buffer has at most that many values.
    if samples * (5 * channels + 1024) >= 2**31 or form.dtype not in (torch.float32, torch.float64):
        return False
    if hasattr(form, 'base'):
        groups = form.base.num_groups if form.base.normalizer == 'GN' else 1
        embedding = params[2].shape[0]
        return (
            form.base.normalizer in ('IN', 'LN', 'GN')
            and embedding <= instance_meta.MAX_EMBEDDING
            and pool.fits_row(channels, groups)
            and pool.fits_row(channels, form.num_keys)
        )
    if hasattr(form, 'pairwise'):
        conv_weight, fc1_weight = params[2:4]
        if fc1_weight.shape[0] > exemplar.MAX_HIDDEN:
            return False
        if conv_weight is not None and conv_weight.shape[1] > exemplar.MAX_REDUCTION:
            return False
    return pool.fits(form.pools, channels)
