"""The base of the layers that mix a pool of normalizers: the pool, and BN's running statistics."""

import math
from collections.abc import Sequence
from numbers import Real

import torch
import torch.distributed as dist
from torch import Tensor

from .. import ops
from ..ops.coefficients.pool import NORMALIZERS
from .base import LearnedNorm, check_positive_int
from .state_dict import ForeignState
from .sync import pool_batch_sync

# The three operations of a mean and a variance on means of planes, and one more for the mean of their variances.
POOL_FLOPS = 4
SOFTMAX_FLOPS = 3  # exp, sum, division


class PooledNorm(LearnedNorm):
    """Base of the layers that mix a pool of normalizers (SN and EN): the pool, and BN's running statistics.

    Args:
        num_features: Number of channels C.
        eps: Added to variances before the square root.
        momentum: Weight of the new value in the running statistics, as in PyTorch; None is a cumulative average.
        normalizers: Any non-empty choice of 'IN', 'LN', 'BN' and 'GN'; K is their number.
        num_groups: Number of groups of GN; gcd(C, num_groups) is used, so that any C works.
        init_ratios: Probabilities of the K normalizers at the start; None is uniform.
        sync: In training, take BN's statistics over the values of all processes of the default group.
        affine: Whether gamma and beta are learned.
        track_running_stats: Whether BN keeps running statistics and uses them in eval mode, else it uses the batch's.
        activation: What follows in the same pass: 'relu', 'leaky_relu', 'silu', 'gelu' or None.
        negative_slope: That of 'leaky_relu'.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        normalizers: Sequence[str] = ('IN', 'LN', 'BN'),
        num_groups: int = 32,
        init_ratios: Sequence[float] | None = None,
        sync: bool = False,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(num_features, eps, affine, activation, negative_slope)
        if momentum is not None and (not isinstance(momentum, Real) or not 0 <= momentum <= 1):
            raise ValueError(f'momentum must be None (cumulative average) or a number in [0, 1], got {momentum!r}')
        self.momentum = momentum
        self.normalizers = self._check_normalizers(normalizers)
        self.num_groups = math.gcd(self.num_features, check_positive_int('num_groups', num_groups))
        self.init_ratios = self._check_init_ratios(init_ratios, self.normalizers)
        self.sync = sync
        self.track_running_stats = track_running_stats
        if 'BN' in self.normalizers and track_running_stats:
            self.register_buffer('running_mean', torch.empty(self.num_features, device=device, dtype=dtype))
            self.register_buffer('running_var', torch.empty(self.num_features, device=device, dtype=dtype))
            self.register_buffer('num_batches_tracked', torch.tensor(0, dtype=torch.long, device=device))
        else:
            self.running_mean = self.running_var = self.num_batches_tracked = None

    @staticmethod
    def _check_normalizers(normalizers: Sequence[str]) -> tuple[str, ...]:
        expected = f'expected a non-empty choice of {", ".join(NORMALIZERS)}, each at most once'
        if isinstance(normalizers, str) or not isinstance(normalizers, Sequence) or not normalizers:
            raise ValueError(f"normalizers={normalizers!r}: {expected}, e.g. ('IN', 'LN', 'BN')")
        unknown = [n for n in normalizers if n not in NORMALIZERS]
        if unknown:
            raise ValueError(f'normalizers={tuple(normalizers)!r} names unknown {unknown}: {expected}')
        if len(set(normalizers)) != len(normalizers):
            raise ValueError(f'normalizers={tuple(normalizers)!r} names one twice: {expected}')
        return tuple(normalizers)

    @staticmethod
    def _check_init_ratios(init_ratios: Sequence[float] | None, normalizers: Sequence[str]) -> tuple[float, ...] | None:
        if init_ratios is None:
            return None
        ratios = tuple(float(r) for r in init_ratios)
        if len(ratios) != len(normalizers) or min(ratios) <= 0 or abs(sum(ratios) - 1) > 1e-4:
            raise ValueError(
                f'init_ratios={ratios!r}: expected {len(normalizers)} positive probabilities that sum to 1, '
                f'one for each of normalizers={tuple(normalizers)!r}'
            )
        return ratios

    def _initial_logits(self) -> Tensor:
        """Logits whose softmax is ``init_ratios``; exactly zero where that is uniform. Shape (K,)."""
        k = len(self.normalizers)
        if self.init_ratios is None:
            return torch.zeros(k)
        return (torch.tensor(self.init_ratios, dtype=torch.float64) * k).log()

    def reset_running_stats(self) -> None:
        """Running statistics as before the first batch: mean 0, variance 1, no batch seen."""
        for buffer, start in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                buffer.fill_(start)

    def pool(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The moments that each normalizer of the pool uses.

        Args:
            mean: Mean of each plane, (N, C).
            var: Biased variance of each plane, (N, C).
            positions: Number of positions of a plane.
            update_running_stats: Whether the batch enters BN's running statistics, in training mode.

        Returns:
            What :func:`mmnorm.ops.pool` returns: deviations and variances, both (K, N, C).
        """
        options = dict(normalizers=self.normalizers, num_groups=self.num_groups)
        if 'BN' not in self.normalizers:
            return ops.pool(mean, var, **options)
        if self.track_running_stats and not self.training:
            # A backward is that of the statistics that its forward has seen, whatever becomes of them in between.
            statistics = [self.running_mean, self.running_var]
            if torch.is_grad_enabled() and not torch.jit.is_tracing():
                statistics = [t.clone() for t in statistics]  # type: ignore[union-attr]  # what is tracked is there
            return ops.pool(mean, var, *statistics, **options)
        stats = None
        if update_running_stats and self.training and self.track_running_stats:
            buffers = self.running_mean, self.running_var, self.num_batches_tracked
            stats = ops.RunningStats(*buffers, self.momentum, positions)  # type: ignore[arg-type]  # as above
        if not self._waits_for_others():
            return ops.pool(mean, var, track=stats, **options)
        batch_mean, batch_var, count = pool_batch_sync(mean, var, positions)
        if stats is not None:
            ops.update_running_stats(stats, batch_mean.detach()[0], batch_var.detach()[0], count)
        return ops.pool(mean, var, batch_mean[0], batch_var[0], **options)

    def tracked_moments(self, mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor, int]:
        """Of what the running statistics are, from the moments of the input: its own, unless a norm says otherwise."""
        return mean, var, positions

    def _waits_for_others(self) -> bool:
        return (
            self.sync
            and 'BN' in self.normalizers
            and self.training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        )

    def adapt_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        had, has = 'running_mean' in state.entries, self.running_mean is not None
        kept, lost = super().adapt_state(state)
        if had and not has:
            lost[0] += ' (this pool has no use for them)'
        if state.logits is not None:
            # A checkpoint does not name its pool; this is all that can be told of it.
            if state.logits.shape[-1] == len(self.normalizers) and had == has:
                words = self._adapt_ratios(state.logits, state)
                kept += words[0]
                lost += words[1]
            else:
                lost.append('its ratios (they are of another pool)')
        return kept, lost

    def _adapt_ratios(self, logits: Tensor, state: ForeignState) -> tuple[list[str], list[str]]:
        """Let ``logits`` be the ratios of every sample, in ``state.entries``; what was kept and lost of them."""
        return [], ['its ratios']

    def coefficient_flops(self, images: int) -> int:
        return self.pool_flops(images) + super().coefficient_flops(images)

    def pool_flops(self, images: int) -> int:
        """FLOPs of :meth:`pool`, and of the differences of means, of all normalizers; IN has neither."""
        c, flops = self.num_features, 0
        for normalizer in self.normalizers:
            if normalizer == 'IN':
                continue
            flops += images * c
            if normalizer != 'BN' or self.training or not self.track_running_stats:
                flops += POOL_FLOPS * images * c
            if normalizer == 'BN' and self.training and self.track_running_stats:
                # Two buffers, each old + momentum * (new - old).
                flops += 2 * 2 * c
        return flops

    def closest_normalizer(self) -> str:
        """'BN' where the pool has it; otherwise the one with the largest ratio."""
        if 'BN' in self.normalizers:
            return 'BN'
        ratios = self.typical_ratios()
        return self.normalizers[0 if ratios.is_meta else int(ratios.argmax())]

    def typical_ratios(self) -> Tensor:
        """How much each normalizer counts, (K,), for a sample that is like all others; equal here."""
        return torch.ones(len(self.normalizers))

    def sole_normalizer(self) -> str | None:
        return self.normalizers[0] if len(self.normalizers) == 1 else None

    def why_not_fixed(self) -> str | None:
        if self.running_mean is None:
            return 'it has no running statistics'
        if self.sole_normalizer() is None:
            return 'BN is not the only normalizer that counts'
        return super().why_not_fixed()

    def _sole(self, counts: Tensor) -> str | None:
        """The normalizer that counts alone, by how much each one counts, (K, ...)."""
        if counts.is_meta:
            return None
        names = [name for name, count in zip(self.normalizers, counts, strict=True) if count.any()]
        return names[0] if len(names) == 1 else None

    def extra_repr(self) -> str:
        text = f'{self.num_features}, eps={self.eps}, momentum={self.momentum}, normalizers={self.normalizers}'
        if 'GN' in self.normalizers:
            text += f', num_groups={self.num_groups}'
        if self.init_ratios is not None:
            text += f', init_ratios={self.init_ratios}'
        if self.sync:
            text += ', sync=True'
        if not self.affine:
            text += ', affine=False'
        if not self.track_running_stats:
            text += ', track_running_stats=False'
        return text + self._activation_repr()
