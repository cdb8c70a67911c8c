"""What all learned norms share: the checks, the three steps, and the loading of other norms' weights."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import ops
from ..ops.coefficients.pool import NORMALIZERS
from ..ops.compat import is_autocast_enabled
from .load_summary import add_to_summary, describe
from .state_dict import AFFINE, BUFFERS, OWN_PARAMETERS, ForeignState, adopt_sibling_weights, reduce_state
from .sync import pool_batch_sync


def check_positive_int(name: str, value: int) -> int:
    """Return ``value`` as an int, or raise a ValueError that names it where it isn't a positive integer."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value <= 0:
        raise ValueError(f'{name} must be a positive integer, got {value!r}')
    return int(value)


# What eps=0 stands for: below the rounding of any variance that matters, and its gradients are finite in float32.
_SMALLEST_EPS = 1e-12
# Arguments of SyncBatchNorm (PyTorch's, mmcv's) and of the BatchNorm of later PyTorch that no layer here needs.
_BATCH_NORM_OPTIONS = ('process_group', 'group', 'stats_mode', 'bias')


def check_batch_norm_options(layer: str, options: dict) -> None:
    """Let pass what BatchNorm and SyncBatchNorm take and ``layer`` does not need.

    Raises:
        TypeError: If there is anything else.
        ValueError: If gamma without beta is asked for.
    """
    for name in options:
        if name not in _BATCH_NORM_OPTIONS:
            raise TypeError(f'{layer}.__init__() got an unexpected keyword argument {name!r}')
    if not options.get('bias', True):
        raise ValueError(f'{layer} has no gamma without beta (bias=False); give affine=False, or leave bias out')


class LearnedNorm(nn.Module):
    """Base of all layers here: moments, coefficients, affine.

    A subclass says what its coefficients are; the passes over the data belong to :mod:`mmnorm.ops`.

    Args:
        num_features: Number of channels C.
        eps: Added to variances before the square root; 0 is taken as 1e-12.
        affine: Whether gamma and beta are learned; without, they are 1 and 0.

    Attributes:
        norm_eval: Stay in eval mode whatever :meth:`train` is asked for, so that BN keeps its running statistics. The
            parameters go on learning. Not part of the state dict.
    """

    norm_eval: bool = False
    _input_ndims: tuple[int, ...] = ()
    # Parameters that no other norm has. A state dict without any of them comes from another norm.
    _own_parameters: tuple[str, ...] = ()

    def __init__(self, num_features: int, eps: float, affine: bool) -> None:
        super().__init__()
        self.num_features = check_positive_int('num_features', num_features)
        if isinstance(eps, bool) or not isinstance(eps, Real) or not 0 <= eps < math.inf:
            raise ValueError(f'eps must be a positive number, or 0, got {eps!r}')
        # Configs have eps=0 where BatchNorm is frozen. A plane of one value must not be divided by zero all the same.
        self.eps = float(eps) or _SMALLEST_EPS
        self.affine = affine

    def train(self, mode: bool = True) -> 'LearnedNorm':
        """Set the mode, as nn.Module does; with :attr:`norm_eval` it is eval mode in any case."""
        return super().train(mode and not self.norm_eval)

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Scale and shift of each plane, ``y = scale * (x - mean) + shift``: the formula of the norm.

        Args:
            mean: Mean of each plane, (N, C), in float64, or float32 for half-precision input.
            var: Biased variance of each plane, (N, C), in that type or the one that the input is computed in.
            positions: Number of positions of a plane.
            update_running_stats: Whether the batch may enter running statistics, where there are any.

        Returns:
            Scale and shift, both broadcastable to (N, C).
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        r"""Normalize ``x``.

        Args:
            x: Floating-point tensor (N, C, \\*), of the rank that the class name says. It may be empty.

        Returns:
            Tensor of the shape, type and memory format of ``x``.

        Raises:
            ValueError: If the rank, the number of channels or the type is wrong.
        """
        self._check_input(x)
        if x.numel() == 0:
            # RoI heads meet images without proposals. Adding nothing of each parameter to the output gives them zero
            # gradients rather than none, which DistributedDataParallel would wait for.
            if self._waits_for_others():
                # By the way of all others, forward and backward: DistributedDataParallel too has collectives, and they
                # must come in the same order. Planes without positions would bring NaN into it, no planes do not.
                return x.clone() + self._normalize(x[:0]).sum()
            return sum((p.sum().to(x.dtype) * 0 for p in self.parameters()), x.clone())
        return self._normalize(x)

    def _normalize(self, x: Tensor) -> Tensor:
        device = x.device.type
        if is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return ops.normalize(x, self.coefficients)
        return ops.normalize(x, self.coefficients)

    def _waits_for_others(self) -> bool:
        """Whether other processes count on this one to take part even with an empty batch."""
        return False

    @staticmethod
    def _positions(x: Tensor) -> int:
        return math.prod(x.shape[2:])

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        if x.dim() not in self._input_ndims:
            expected = ' or '.join(f'{n}D' for n in self._input_ndims)
            raise ValueError(f'{name} expected {expected} input, got {x.dim()}D input of shape {tuple(x.shape)}')
        if x.shape[1] != self.num_features:
            raise ValueError(
                f'{name} expected {self.num_features} channels (num_features) in dimension 1, '
                f'got {x.shape[1]} in input of shape {tuple(x.shape)}'
            )
        if not x.is_floating_point():
            raise ValueError(f'{name} expected floating-point input, got {x.dtype}; convert it first, e.g. x.float()')

    def _register_affine(self, *shape: int, device=None, dtype=None) -> None:
        """Create ``weight`` and ``bias``, or register them as None where gamma and beta are not learned."""
        for name in ('weight', 'bias'):
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if self.affine else None
            self.register_parameter(name, parameter)

    def _adapt_foreign_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        """Rewrite ``state.entries``, which another norm wrote, to what this layer can load.

        Returns:
            What was kept besides gamma and beta, and what was lost, in words for the summary of the load.
        """
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, *args) -> None:
        names = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        if names & {'weight', 'bias', 'running_mean'} and not names.intersection(self._own_parameters):
            # Not the entries of children: a norm may have an activation inside.
            entries = {name: state_dict[prefix + name] for name in names if '.' not in name}
            state = reduce_state(entries)
            kept, lost = self._adapt_foreign_state(state)
            for name in (*AFFINE, *BUFFERS, *OWN_PARAMETERS.get(state.source, ())):
                state_dict.pop(prefix + name, None)
            state_dict.update({prefix + name: value for name, value in state.entries.items()})
            add_to_summary(describe(state, type(self).__name__, kept, state.dropped + lost), missing_keys)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *args)


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
    """

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        normalizers: Sequence[str],
        num_groups: int,
        init_ratios: Sequence[float] | None,
        sync: bool,
        affine: bool,
        track_running_stats: bool,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(num_features, eps, affine)
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
        if self.running_mean is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

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
                statistics = [t.clone() for t in statistics]
            return ops.pool(mean, var, *statistics, **options)
        stats = None
        if update_running_stats and self.training and self.track_running_stats:
            buffers = self.running_mean, self.running_var, self.num_batches_tracked
            stats = ops.RunningStats(*buffers, self.momentum, positions)
        if not self._waits_for_others():
            return ops.pool(mean, var, track=stats, **options)
        batch_mean, batch_var, count = pool_batch_sync(mean, var, positions)
        if stats is not None:
            ops.update_running_stats(stats, batch_mean.detach()[0], batch_var.detach()[0], count)
        return ops.pool(mean, var, batch_mean[0], batch_var[0], **options)

    def _waits_for_others(self) -> bool:
        return (
            self.sync
            and 'BN' in self.normalizers
            and self.training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        )

    def _adapt_foreign_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        kept, lost = [], []
        had, has = 'running_mean' in state.entries, self.running_mean is not None
        if had and has:
            kept.append('running statistics')
        elif had:
            lost.append('its running statistics (this pool has no use for them)')
        elif has:
            lost.append('running statistics (re-estimate them before eval mode)')
        # What the other norm could not know stays as it is here; what this layer has no use for is dropped.
        for name in self._own_parameters + BUFFERS:
            own = getattr(self, name)
            if own is None:
                state.entries.pop(name, None)
            else:
                state.entries.setdefault(name, own.detach())
        if state.logits is not None:
            # A checkpoint does not name its pool; this is all that can be told of it.
            if state.logits.numel() == len(self.normalizers) and had == has:
                state.entries.update(self._constant_ratios(state.logits - state.logits.mean()))
                kept.append('ratios' if state.source == 'EN' else 'the weights of the variances as ratios')
            else:
                lost.append('its ratios (they are of another pool)')
        return kept, lost

    def _constant_ratios(self, logits: Tensor) -> dict[str, Tensor]:
        """The own parameters that make softmax(``logits``) the ratios of every sample."""
        raise NotImplementedError

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
        return text


def _watch_parents(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    if isinstance(child, LearnedNorm):
        adopt_sibling_weights(parent)


torch.nn.modules.module.register_module_module_registration_hook(_watch_parents)
