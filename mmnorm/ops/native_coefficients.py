"""The closed forms of the coefficients as loops of our own for the CPU, and the layer as one node in C++.

In :mod:`.closed_form` some thirty operators each way work on (N, C) numbers, and on small maps their calls decide what
a layer costs. Here they are one call into ``mmnorm/csrc``, but for the small matrix products of EN and ILM. The forms
have the names and arguments of those of :mod:`.closed_form`; only :func:`normalize` knows what to do with them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import native_passes
from .closed_form import PoolForm
from .closed_form.pool import RunningStats


def normalize(x: Tensor, form, params: Sequence[Tensor | None], replay: Callable) -> Tensor:
    """The whole layer, as one node of autograd.

    Args:
        x: (N, C, *), contiguous or channels_last.
        form: One of those below.
        params: The parameters that it takes.
        replay: Called as ``replay(x, params, needs_grad, dy)`` for gradients that can be differentiated again.

    Returns:
        Tensor of the shape, type and memory format of ``x``.
    """
    return native_passes._C.normalize(x, form, params, replay)


def SwitchableForm(
    pools: Sequence[PoolForm], eps: float, dtype: torch.dtype, running_stats: RunningStats | None = None
):
    """See :class:`mmnorm.ops.closed_form.SwitchableForm`; BN's ``running_stats`` replace the pool's ``track``."""
    return native_passes._C.SwitchableForm(_pool(pools, dtype, running_stats), eps)


def ExemplarForm(
    pools: Sequence[PoolForm],
    eps: float,
    dtype: torch.dtype,
    pairwise: bool = True,
    tanh: bool = True,
    running_stats: RunningStats | None = None,
):
    """See :class:`mmnorm.ops.closed_form.ExemplarForm`; BN's ``running_stats`` replace the pool's ``track``."""
    return native_passes._C.ExemplarForm(_pool(pools, dtype, running_stats), eps, pairwise, tanh)


def InstanceMetaForm(
    base: PoolForm,
    num_keys: int,
    eps: float,
    dtype: torch.dtype,
    mean_activation: str = 'tanh',
    var_activation: str = 'sigmoid',
):
    """See :class:`mmnorm.ops.closed_form.InstanceMetaForm`."""
    pool = _pool([base, PoolForm('GN', dtype, num_keys)], dtype)
    return native_passes._C.InstanceMetaForm(pool, eps, mean_activation, var_activation)


def supports(form, samples: int, channels: int, *params: Tensor | None) -> bool:
    """Whether the loops can do what the form says: they always can."""
    return True


def _pool(pools: Sequence[PoolForm], dtype: torch.dtype, stats: RunningStats | None = None):
    running = next((pool.running for pool in pools if pool.running is not None), None)
    mean, var = (None, None) if running is None else (running[0].double(), running[1].to(dtype))
    track = None if stats is None else native_passes._C.RunningStats(*stats)
    return native_passes._C.Pool(
        [pool.normalizer for pool in pools], [pool.num_groups for pool in pools], mean, var, track
    )
