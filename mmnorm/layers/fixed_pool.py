"""Bases of the norms beyond SN, EN and ILM: what has a pool of its own, what gates BN, what does not standardize."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from .base import LearnedNorm, check_batch_norm_options
from .pooled import PooledNorm
from .state_dict import AFFINE, ForeignState


class FixedPoolNorm(PooledNorm):
    """Base of the norms whose pool is part of their formula: the arguments of nn.BatchNorm, and ``sync``.

    A subclass creates what else it has and calls ``reset_parameters``.
    """

    fixed_pool: ClassVar[Sequence[str]] = ('BN',)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        sync: bool = False,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
        device=None,
        dtype=None,
        **unused,
    ) -> None:
        check_batch_norm_options(type(self).__name__, unused)
        options = dict(affine=affine, track_running_stats=track_running_stats, device=device, dtype=dtype)
        super().__init__(
            num_features, eps, momentum, self.fixed_pool, sync=sync, activation=activation,
            negative_slope=negative_slope, **options,
        )  # fmt: skip
        self.register_affine(self.num_features, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Gamma 1, beta 0, running statistics as before the first batch."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def with_affine(self, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, (N, C), followed by gamma and beta."""
        if self.weight is None or self.bias is None:
            return scale, shift
        return scale * self.weight, shift * self.weight + self.bias

    def predict(self, mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor]:
        """Omega and beta of each plane, (N, C), where :attr:`learns` is 'affine'."""
        raise NotImplementedError

    @torch.no_grad()
    def predicted_affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""What the layer predicts for each plane of ``x``, (N, C, \\*): omega and beta, both (N, C)."""
        self._check_input(x)
        dtype = ops.accumulation_dtype(x.dtype)
        if x.numel() == 0:
            nothing = torch.full(x.shape[:2], math.nan, device=x.device, dtype=dtype)
            return nothing, nothing.clone()
        with torch.autocast(x.device.type, enabled=False):
            omega, beta = self.predict(*ops.moments(x), self._positions(x))
        return omega.to(dtype), beta.to(dtype)


class GatedBatchNorm(FixedPoolNorm):
    r"""Base of BN whose output is scaled by a gate of each plane, :math:`\mathrm{sigmoid}(w k + b)`.

    It starts, and takes BN's weights, with w = 0 and gamma divided by the constant gate: then it is that BN.
    """

    own_parameters: ClassVar[tuple[str, ...]] = ('gate_weight', 'gate_bias')
    learns = 'affine'
    # Only a gamma of its own makes the constant gate the 1 of a norm without gamma.
    needs_affine = True
    initial_gate_bias: ClassVar[float]
    gate_weight: nn.Parameter
    gate_bias: nn.Parameter

    def __init__(self, num_features: int, **options) -> None:
        super().__init__(num_features, **options)
        factory = dict(device=options.get('device'), dtype=options.get('dtype'))
        for name in self.own_parameters:
            self.register_parameter(name, nn.Parameter(torch.empty(self.num_features, **factory)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name in self.own_parameters:
            nn.init.constant_(getattr(self, name), self.initial_gate_bias if name == 'gate_bias' else 0)

    def standardize(self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool) -> tuple[Tensor, ...]:
        """Scale and deviation of the standardized planes, and what their gates look at, all (N, C)."""
        raise NotImplementedError

    def gate(self, feature: Tensor) -> Tensor:
        """The gates of planes, (N, C)."""
        return torch.sigmoid(self.gate_weight * feature + self.gate_bias)

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        scale, deviation, feature = self.standardize(mean, var, positions, update_running_stats)
        scale = scale * self.gate(feature)
        return self.with_affine(scale, scale * deviation)

    def predict(self, mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor]:
        """Gamma times the gate, and beta."""
        *_, feature = self.standardize(mean, var, positions, False)
        gate = self.gate(feature)
        return self.with_affine(gate, torch.zeros_like(gate))

    @classmethod
    def reduce_state(cls, entries: dict[str, Tensor], state: ForeignState) -> None:
        """Gamma with the gate of a plane whose feature is 0."""
        if 'weight' in state.entries:
            state.entries['weight'] = state.entries['weight'] * entries['gate_bias'].sigmoid()
        state.dropped += [f'its {name}' for name in cls.own_parameters if name != 'gate_bias' and entries[name].any()]

    def adapt_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        words = super().adapt_state(state)
        for name in self.own_parameters:
            start = self.initial_gate_bias if name == 'gate_bias' else 0
            state.entries[name] = torch.full_like(getattr(self, name), start)
        if 'weight' in state.entries:
            state.entries['weight'] = state.entries['weight'] * (1 + math.exp(-self.initial_gate_bias))
        return words

    def is_plain(self) -> bool:
        others = [getattr(self, name) for name in self.own_parameters if name != 'gate_bias']
        return not any(t.is_meta or t.any() for t in others)

    def plain_affine(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        gate = self.gate_bias.sigmoid()
        if self.weight is None or self.bias is None:
            return gate, torch.zeros_like(gate)
        return self.weight * gate, self.bias


class Recalibration(LearnedNorm):
    """Base of what rescales planes and does not standardize: it stands beside a norm, and takes no weights of one."""

    @classmethod
    def reduce_state(cls, entries: dict[str, Tensor], state: ForeignState) -> None:
        """Nothing of it is of use to a norm."""
        state.entries.clear()
        state.dropped.append(f'all that {cls.kind} has')

    def adapt_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        had = any(name in state.entries for name in (*AFFINE, 'running_mean'))
        state.entries = {name: t.detach() for name, t in self.state_dict().items()}
        return [], [f'gamma, beta and statistics ({self.kind} does not standardize)'] if had else []

    def closest_normalizer(self) -> str:
        raise ValueError(f'{self.kind} does not standardize, so that no plain norm comes close to it')

    def sole_normalizer(self) -> str | None:
        return None
