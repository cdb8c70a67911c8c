"""What all learned norms share: the checks, the three steps, loading others' weights, what they say of themselves."""

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.compat import is_autocast_enabled
from ..ops.passes.reference import coefficient_dtype
from ..registry import INPUT_NDIMS, NORMS, add_layer
from .load_summary import describe, say
from .siblings import SiblingLoader
from .state_dict import AFFINE, BUFFERS, ForeignState, reduce_state, source_of

if TYPE_CHECKING:
    from typing_extensions import Self


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


class LearnedNorm(SiblingLoader):
    """Base of all layers here, and of your own: moments, coefficients, affine (docs/extending.md).

    A subclass says what its coefficients are; the passes over the data belong to :mod:`mmnorm.ops`. What the rest of
    the project has to know of a norm stands on its class, and :func:`mmnorm.register` makes the class known.

    Args:
        num_features: Number of channels C.
        eps: Added to variances before the square root; 0 is taken as 1e-12.
        affine: Whether gamma and beta are learned; without, they are 1 and 0.
        activation: What follows in the same pass: 'relu', 'leaky_relu', 'silu', 'gelu' or None.
        negative_slope: That of 'leaky_relu'.

    Attributes:
        kind: The name under which the class is registered, e.g. 'SN'.
        paper: Title, and number on arXiv or where it was published; None if it is of no paper.
        rank: 1, 2 or 3, what the class is for; None where it takes input of any rank.
        own_parameters: Names of the parameters and buffers that plain norms have not.
        marker: Those by which a checkpoint of this norm is told; ``own_parameters`` unless it says less.
        learns: What can be looked at: 'weights' of the normalizers, 'ratios' of the normalizers for each sample,
            'affine', a predicted omega and beta, or None. It decides which figures there are, and which of
            ``importance_weights()``, ``importance_ratios(x)`` and ``predicted_affine(x)`` the class has.
        norm_eval: Stay in eval mode whatever :meth:`train` is asked for, so that BN keeps its running statistics. The
            parameters go on learning. Not part of the state dict.
        activation: The argument; may be changed, after :attr:`negative_slope`. Neither is part of the state dict.
    """

    kind: ClassVar[str] = ''
    paper: ClassVar[tuple[str, str] | None] = None
    rank: int | None = None
    own_parameters: ClassVar[tuple[str, ...]] = ()
    marker: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[str | None] = None
    # Whether it can compute what a norm without gamma and beta does only with ones of its own.
    needs_affine: ClassVar[bool] = False
    _activation: ops.Activation | None = None
    norm_eval: bool = False
    negative_slope: float = 0.01
    eps: float
    affine: bool
    # As register_affine makes them.
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    # How OpenMMLab names the layer in a network: as a BatchNorm, so that the weights of one are found.
    _abbr_ = 'bn'

    if TYPE_CHECKING:
        # What a class has by what it learns, and by what it standardizes with. They are not there otherwise.
        normalizers: tuple[str, ...]
        num_groups: int
        momentum: float | None
        track_running_stats: bool
        sync: bool

        def importance_weights(self) -> Tensor: ...

        def importance_ratios(self, x: Tensor) -> Tensor: ...

        def predicted_affine(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def __init_subclass__(cls, rank: int | None = None, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        if 'own_parameters' in vars(cls) and 'marker' not in vars(cls):
            cls.marker = cls.own_parameters
        if rank is not None:
            cls.rank = rank
            add_layer(cls, rank)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_features = check_positive_int('num_features', num_features)
        if isinstance(eps, bool) or not isinstance(eps, Real) or not 0 <= eps < math.inf:
            raise ValueError(f'eps must be a positive number, or 0, got {eps!r}')
        # Configs have eps=0 where BatchNorm is frozen. A plane of one value must not be divided by zero all the same.
        self.eps = float(eps) or _SMALLEST_EPS
        self.affine = affine
        self.negative_slope = negative_slope
        self.activation = activation

    def train(self, mode: bool = True) -> 'Self':
        """Set the mode, as nn.Module does; with :attr:`norm_eval` it is eval mode in any case."""
        return super().train(mode and not self.norm_eval)

    @property
    def activation(self) -> str | None:
        return None if self._activation is None else self._activation.name

    @activation.setter
    def activation(self, name: str | None) -> None:
        if name is not None and name not in ops.ACTIVATIONS:
            raise ValueError(f'activation must be None or one of {", ".join(ops.ACTIVATIONS)}, got {name!r}')
        self._activation = None if name is None else ops.Activation(name, self.negative_slope)

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

    def forward(self, x: Tensor, residual: Tensor | None = None, activation: ops.Activation | None = None) -> Tensor:
        r"""Normalize ``x``, add ``residual`` where it is given, and apply :attr:`activation` where there is one.

        Args:
            x: Floating-point tensor (N, C, \\*), of the rank that the class name says. It may be empty.
            residual: Tensor of the same shape.
            activation: In place of :attr:`activation`, in this call.

        Returns:
            Tensor of the shape, type and memory format of ``x``.

        Raises:
            ValueError: If the rank, the number of channels or the type is wrong.
        """
        self._check_input(x)
        activation = activation or self._activation
        if residual is not None and residual.shape != x.shape:
            raise ValueError(
                f'{type(self).__name__} expected a residual of the shape of its input, {tuple(x.shape)}, '
                f'got {tuple(residual.shape)}'
            )
        if x.numel() == 0:
            y = self._of_nothing(x)
            y = y if residual is None else y + residual
            return y if activation is None else activation(y)
        return self._normalize(x, residual, activation)

    def _of_nothing(self, x: Tensor) -> Tensor:
        """The affine form of a tensor without values.

        RoI heads meet images without proposals. Adding nothing of each parameter to the output gives them zero
        gradients rather than none, which DistributedDataParallel would wait for.
        """
        if self._waits_for_others():
            # By the way of all others, forward and backward: DistributedDataParallel too has collectives, and they
            # must come in the same order. Planes without positions would bring NaN into it, no planes do not.
            return x.clone() + ops.normalize(x[:0], self.coefficients).sum()
        return sum((p.sum().to(x.dtype) * 0 for p in self.parameters()), x.clone())

    def _activation_repr(self) -> str:
        return '' if self._activation is None else f', activation={self.activation!r}'

    def _normalize(self, x: Tensor, residual: Tensor | None, activation: ops.Activation | None) -> Tensor:
        device = x.device.type
        if is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return ops.normalize(x, self.coefficients, activation, residual)
        return ops.normalize(x, self.coefficients, activation, residual)

    def _waits_for_others(self) -> bool:
        """Whether other processes count on this one to take part even with an empty batch."""
        return False

    @staticmethod
    def _positions(x: Tensor) -> int:
        return math.prod(x.shape[2:])

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        expected_ndims = (2, 3, 4, 5) if self.rank is None else INPUT_NDIMS[self.rank]
        if x.dim() not in expected_ndims:
            expected = ' or '.join(f'{n}D' for n in expected_ndims)
            raise ValueError(f'{name} expected {expected} input, got {x.dim()}D input of shape {tuple(x.shape)}')
        if x.shape[1] != self.num_features:
            raise ValueError(
                f'{name} expected {self.num_features} channels (num_features) in dimension 1, '
                f'got {x.shape[1]} in input of shape {tuple(x.shape)}'
            )
        if not x.is_floating_point():
            raise ValueError(f'{name} expected floating-point input, got {x.dtype}; convert it first, e.g. x.float()')

    def register_affine(self, *shape: int, device=None, dtype=None) -> None:
        """Create ``weight`` and ``bias``, or register them as None where gamma and beta are not learned."""
        for name in ('weight', 'bias'):
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if self.affine else None
            self.register_parameter(name, parameter)

    @classmethod
    def reduce_state(cls, entries: dict[str, Tensor], state: ForeignState) -> None:
        """Say what another norm can make of a state dict that this one wrote, by changing ``state``.

        Args:
            entries: Parameters and buffers by name, without the path of the layer.
            state: Gamma, beta and running statistics of them, as far as there are any.
        """
        state.dropped += [f'its {name}' for name in cls.own_parameters if name in entries]

    def adapt_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        """Rewrite ``state.entries``, which another norm wrote, to what this layer can load.

        Parameters and buffers that only this norm has stay as they are.

        Returns:
            What was kept besides gamma and beta, and what was lost, in words for the log.
        """
        entries = state.entries
        kept, lost = [], []
        had, has = 'running_mean' in entries, getattr(self, 'running_mean', None) is not None
        if had and has:
            kept.append('running statistics')
        elif had:
            lost.append('its running statistics')
        elif has:
            lost.append('running statistics (re-estimate them before eval mode)')
        for name in (*self.own_parameters, *BUFFERS):
            own = getattr(self, name, None)
            if own is None:
                entries.pop(name, None)
            else:
                entries.setdefault(name, own.detach())
        return kept, lost

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, *args) -> None:
        names = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
        if names & {'weight', 'bias', 'running_mean'} and self._is_foreign(names):
            # Not the entries of children: a norm may have an activation inside.
            entries = {name: state_dict[prefix + name] for name in names if '.' not in name}
            state = reduce_state(entries)
            kept, lost = self.adapt_state(state)
            others = NORMS[state.source].own_parameters if state.source in NORMS else ()
            for name in (*AFFINE, *BUFFERS, *others):
                state_dict.pop(prefix + name, None)
            state_dict.update({prefix + name: value for name, value in state.entries.items()})
            say(describe(state, type(self).__name__, kept, state.dropped + lost), missing_keys)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *args)

    def _is_foreign(self, names: set[str]) -> bool:
        """Whether another norm wrote entries of these names."""
        source = source_of(names)
        if source in NORMS:
            return source != self.kind
        # With some of the parameters of this norm they are an incomplete checkpoint of it.
        return not names.intersection(self.own_parameters)

    # What it says of itself.

    def tags(self) -> list[str]:
        """Names of what :meth:`summary` returns."""
        if self.learns == 'weights':
            return [f'{moment}_{normalizer}' for moment in ('mean', 'var') for normalizer in self.normalizers]
        return list(self.normalizers) if self.learns == 'ratios' else ['omega', 'beta']

    def summary(self, x: Tensor | None = None) -> Tensor:
        r"""What the layer has learned, in few numbers, for logs and curves.

        Args:
            x: Its input, (N, C, \\*); not needed where :attr:`learns` is 'weights'.

        Returns:
            Tensor (rows, number of :meth:`tags`): a row a sample, or one.
        """
        if self.learns == 'weights':
            return self.importance_weights().reshape(1, -1)
        assert x is not None, f'{type(self).__name__}.summary needs the input'
        if self.learns == 'ratios':
            return self.importance_ratios(x)
        return torch.stack([t.mean(1) for t in self.predicted_affine(x)], 1)

    def coefficient_flops(self, images: int) -> int:
        """FLOPs of :meth:`coefficients` for so many images; a multiply-add is one, as in ``mmengine.analysis``.

        Without an override, those of making a scale and a shift: an inverse root and two products a plane.
        """
        return 4 * images * self.num_features

    def closest_normalizer(self) -> str:
        """The plain norm that comes closest: 'BN', 'GN', 'LN' or 'IN'."""
        raise NotImplementedError(f'{type(self).__name__} does not say which plain norm comes closest to it')

    def plain_affine(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Gamma and beta, both (C,), of that plain norm; None where it needs none."""
        return getattr(self, 'weight', None), getattr(self, 'bias', None)

    def sole_normalizer(self) -> str | None:
        """The normalizer whose statistics standardize the input, where it is one alone; None for a mixture."""
        return None

    def is_plain(self) -> bool:
        """Whether the layer computes what its sole normalizer does with :meth:`plain_affine`, whatever the sample."""
        return self.sole_normalizer() is not None

    def why_not_fixed(self) -> str | None:
        """Why scale and shift are not the same for every input in eval mode, in words; None where they are.

        A norm of which they are is a fixed function of each channel, :meth:`fixed_affine`, which
        :func:`mmnorm.fold` puts into the convolution before it.
        """
        if self.sole_normalizer() != 'BN' or not self.is_plain():
            return 'its scale and shift depend on the sample'
        return None if getattr(self, 'running_mean', None) is not None else 'it has no running statistics'

    @torch.no_grad()
    def fixed_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel in eval mode, ``y = scale * x + shift``, where :meth:`why_not_fixed` is None.

        Returns:
            Both (C,), in float64 (float32 where the running statistics are of half precision).
        """
        statistics: Any = self
        dtype = coefficient_dtype(statistics.running_mean)
        mean, var = (t.to(dtype) for t in (statistics.running_mean, statistics.running_var))
        scale = (var + self.eps).rsqrt()
        gamma, beta = self.plain_affine()
        if gamma is None or beta is None:
            return scale, -mean * scale
        scale = scale * gamma.to(dtype)
        return scale, beta.to(dtype) - mean * scale
