"""The steps of the coefficients as loops of our own for the CPU, each a node of autograd in C++."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..passes import native

if TYPE_CHECKING:
    from .pool import RunningStats


def pool(
    again: Callable,
    mean: Tensor,
    var: Tensor,
    batch_mean: Tensor | None = None,
    batch_var: Tensor | None = None,
    *,
    normalizers: Sequence[str],
    num_groups: int = 1,
    track: 'RunningStats | None' = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`.pool.pool`."""
    stats = track or (None, None, None, None, 0)
    return native.compiled().pool(mean, var, batch_mean, batch_var, normalizers, num_groups, *stats, again)


def _step(name: str) -> Callable:
    """A step whose options are numbers that C++ takes in the same order."""

    def step(again: Callable, *tensors: Tensor | None, **options) -> tuple[Tensor, Tensor] | Tensor:
        return getattr(native.compiled(), name)(*tensors, *options.values(), again)

    return step


_STEPS = ('group_moments', 'mix_statistics', 'mix_outputs', 'correlate', 'rescale', 'perceptron', 'sparsestmax')
KERNELS = {'pool': pool, **{name: _step(name) for name in _STEPS}}
