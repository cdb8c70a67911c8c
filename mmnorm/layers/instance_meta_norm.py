"""Instance-Level Meta Normalization: arXiv 1904.03516."""

import math

import torch
from torch import Tensor, nn

from .. import ops
from ..registry import register
from .base import LearnedNorm, check_batch_norm_options, check_positive_int
from .pooled import POOL_FLOPS
from .state_dict import AFFINE, ForeignState

BASES = ('GN', 'LN', 'IN')
ACTIVATIONS = ('sigmoid', 'tanh', 'relu', 'leaky_relu', 'relu6', 'identity')
INITS = ('kaiming', 'normal')


@register('ILM')
class InstanceMetaNorm(LearnedNorm):
    r"""Instance-Level Meta Normalization (ILM) over input of any rank; use the 1d, 2d or 3d class.

    A base normalizer standardizes the input; scale and shift are predicted for each sample from its key features,
    the mean :math:`\mu` and variance :math:`\gamma` of each of G groups of ``key_group_size`` channels, by an encoder
    that both share and a decoder for each (ILM paper, Section 3):

    .. math::
        y = \omega \frac{x - \mu_\mathrm{base}}{\sqrt{\sigma_\mathrm{base}^2 + \epsilon}} + \beta, \qquad
        \omega = \mathrm{sigmoid}(V_\gamma\, \mathrm{relu}(U \gamma)) + B_\omega, \qquad
        \beta = \tanh(V_\mu\, \mathrm{relu}(U \mu)) + B_\beta

    Args:
        num_features: Number of channels C.
        eps: Added to variances before the square root.
        base: The normalizer that standardizes: 'GN', 'LN' or 'IN'.
        num_groups: Number of groups of the base GN; gcd(C, num_groups) is used.
        key_group_size: Channels of a key group; gcd(C, key_group_size) is used. 1 takes the key features by
            instance (ILM paper, Section 4.5.2).
        reduction: The embedding has M = G // reduction values, or 2 where G <= reduction. The paper does not state
            M; this rule gives its Table 8.
        mean_activation: Of the decoder of the mean, which predicts beta: 'tanh', 'sigmoid', 'relu', 'leaky_relu',
            'relu6' or 'identity' (ILM paper, Table 7, which does not state the slope of the leaky ReLU: 0.01 here).
        var_activation: Of the decoder of the variance, which predicts omega; the same choice.
        init: How encoder and decoders start: 'normal', from N(0, 1) (ILM paper, Section 4.1.1), or 'kaiming', as
            nn.Linear does (the authors' code).
        affine: Whether B_omega and B_beta are learned; without, they are 1 and 0.
        momentum: Accepted and unused, so that a norm_cfg written for BN fits: there are no running statistics.
        track_running_stats: Accepted and unused, likewise.
        activation: What follows in the same pass: 'relu', 'leaky_relu', 'silu', 'gelu' or None.
        negative_slope: That of 'leaky_relu'.
        device: Where the parameters are created.
        dtype: The type of the parameters.
        **unused: What else BatchNorm and SyncBatchNorm take is accepted, so that a norm_cfg written for them fits.

    Attributes:
        weight: B_omega, (C,), initially 1.
        bias: B_beta, (C,), initially 0.
        encoder_weight: U, (M, G).
        mean_decoder_weight: V_mu, (G, M).
        var_decoder_weight: V_gamma, (G, M).

    Raises:
        ValueError: If an argument is out of its range.
    """

    _abbr_ = 'gn'
    paper = ('Instance-Level Meta Normalization', '1904.03516')
    own_parameters = ('encoder_weight', 'mean_decoder_weight', 'var_decoder_weight')
    learns = 'affine'
    # It predicts sigmoid(0) for gamma at first, and only B_omega makes that the 1 of a norm without gamma.
    needs_affine = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        base: str = 'GN',
        num_groups: int = 32,
        key_group_size: int = 16,
        reduction: int = 16,
        mean_activation: str = 'tanh',
        var_activation: str = 'sigmoid',
        init: str = 'kaiming',
        affine: bool = True,
        momentum: float | None = None,
        track_running_stats: bool | None = None,
        activation: str | None = None,
        negative_slope: float = 0.01,
        device=None,
        dtype=None,
        **unused,
    ) -> None:
        check_batch_norm_options(type(self).__name__, unused)
        super().__init__(num_features, eps, affine, activation, negative_slope)
        if base not in BASES:
            raise ValueError(f'base must be one of {", ".join(BASES)}, got {base!r}')
        for name, activation in {'mean_activation': mean_activation, 'var_activation': var_activation}.items():
            if activation not in ACTIVATIONS:
                raise ValueError(f'{name} must be one of {", ".join(ACTIVATIONS)}, got {activation!r}')
        if init not in INITS:
            raise ValueError(f'init must be one of {", ".join(INITS)}, got {init!r}')
        self.base = base
        self.num_groups = math.gcd(self.num_features, check_positive_int('num_groups', num_groups))
        self.key_group_size = math.gcd(self.num_features, check_positive_int('key_group_size', key_group_size))
        self.reduction = check_positive_int('reduction', reduction)
        self.mean_activation = mean_activation
        self.var_activation = var_activation
        self.init = init

        groups = self.num_features // self.key_group_size
        self.embedding_size = groups // self.reduction if groups > self.reduction else 2
        factory = {'device': device, 'dtype': dtype}
        self.register_affine(self.num_features, **factory)
        # Plain parameters, not nn.Linear, which init_cfg of a parent module would re-initialize.
        self.encoder_weight = nn.Parameter(torch.empty(self.embedding_size, groups, **factory))
        self.mean_decoder_weight = nn.Parameter(torch.empty(groups, self.embedding_size, **factory))
        self.var_decoder_weight = nn.Parameter(torch.empty(groups, self.embedding_size, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """B_omega 1, B_beta 0, encoder and decoders as ``init`` says."""
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)
        for parameter in (self.encoder_weight, self.mean_decoder_weight, self.var_decoder_weight):
            if self.init == 'normal':
                nn.init.normal_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    @torch.no_grad()
    def predicted_affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The omega and beta that the layer predicts for each sample, B_omega and B_beta included.

        Args:
            x: Input of the layer, (N, C, \\*).

        Returns:
            omega and beta, both (N, C); float32, or float64 for such input.
        """
        self._check_input(x)
        dtype = ops.accumulation_dtype(x.dtype)
        if x.numel() == 0:
            nothing = torch.full(x.shape[:2], math.nan, device=x.device, dtype=dtype)
            return nothing, nothing.clone()
        with torch.autocast(x.device.type, enabled=False):
            omega, beta = (t.repeat_interleave(self.key_group_size, 1) for t in self.predict(*ops.moments(x)))
        if self.weight is None or self.bias is None:
            return (omega + 1).to(dtype), beta.to(dtype)
        return (omega + self.weight).to(dtype), (beta + self.bias).to(dtype)

    def predict(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Omega and beta of each key group, without B_omega and B_beta.

        Args:
            mean: Mean of each plane, (N, C).
            var: Biased variance of each plane, (N, C).

        Returns:
            Omega and beta, both (N, G).
        """
        key_mean, key_var = ops.group_moments(mean, var, groups=self.num_features // self.key_group_size)
        omega, beta = [
            ops.perceptron(key, self.encoder_weight, None, decoder, None, hidden='relu', output=activation)
            for key, decoder, activation in (
                (key_var, self.var_decoder_weight, self.var_activation),
                (key_mean, self.mean_decoder_weight, self.mean_activation),
            )
        ]
        return omega, beta

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        base = ops.pool(mean, var, normalizers=(self.base,), num_groups=self.num_groups)
        return ops.rescale(*base, *self.predict(mean, var), self.weight, self.bias, eps=self.eps)

    @classmethod
    def reduce_state(cls, entries: dict[str, Tensor], state: ForeignState) -> None:
        """Gamma and beta of a sample whose key features predict nothing, with the paper's sigmoid and tanh."""
        if 'weight' in state.entries:
            state.entries['weight'] = state.entries['weight'] + 0.5
        if entries['mean_decoder_weight'].any() or entries['var_decoder_weight'].any():
            state.dropped.append('what the key features predict')

    def adapt_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        kept, lost = super().adapt_state(state)
        if state.logits is not None:
            lost.append('its ratios')
        # Decoders at zero predict a constant, which goes into B_omega and B_beta: the layer starts as its base with
        # the gamma and beta that were loaded. The encoder keeps its random start, so that the decoders can learn.
        for name in ('mean_decoder_weight', 'var_decoder_weight'):
            state.entries[name] = torch.zeros_like(getattr(self, name))
        for name, constant in zip(AFFINE, self._constant_prediction(), strict=True):
            if name in state.entries:
                state.entries[name] = state.entries[name] - constant
        return kept, lost

    def _constant_prediction(self) -> tuple[float, float]:
        """The omega and beta that decoders at zero predict."""
        gamma, beta = [0.5 if name == 'sigmoid' else 0.0 for name in (self.var_activation, self.mean_activation)]
        return gamma, beta

    def closest_normalizer(self) -> str:
        return self.base

    def sole_normalizer(self) -> str | None:
        return self.base

    def is_plain(self) -> bool:
        decoders = self.mean_decoder_weight, self.var_decoder_weight
        return not decoders[0].is_meta and not any(decoder.any() for decoder in decoders)

    def plain_affine(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        gamma, beta = self._constant_prediction()
        if self.weight is not None and self.bias is not None:
            return self.weight + gamma, self.bias + beta
        if (gamma, beta) == (0, 0):
            return None, None
        like = self.encoder_weight.new_ones(self.num_features)
        return like + gamma, like * beta

    def coefficient_flops(self, images: int) -> int:
        planes = images * self.num_features
        embedding, keys = self.encoder_weight.shape
        # Key features; their encoder twice, relu, two decoders, activations.
        flops = POOL_FLOPS * planes + 2 * images * (embedding * keys + embedding + keys * embedding + keys)
        # B_omega and B_beta, without which omega has 1.
        flops += (2 if self.affine else 1) * planes
        # The base, and the difference of means.
        flops += 0 if self.base == 'IN' else (POOL_FLOPS + 1) * planes
        # Eps and root; scale; shift.
        return flops + (2 + 1 + 1) * planes

    def extra_repr(self) -> str:
        text = f'{self.num_features}, eps={self.eps}, base={self.base!r}'
        if self.base == 'GN':
            text += f', num_groups={self.num_groups}'
        text += f', key_group_size={self.key_group_size}, reduction={self.reduction}, '
        text += f'embedding_size={self.embedding_size}'
        if self.mean_activation != 'tanh':
            text += f', mean_activation={self.mean_activation!r}'
        if self.var_activation != 'sigmoid':
            text += f', var_activation={self.var_activation!r}'
        if self.init != 'kaiming':
            text += f', init={self.init!r}'
        if not self.affine:
            text += ', affine=False'
        return text + self._activation_repr()


class InstanceMetaNorm1d(InstanceMetaNorm, rank=1):
    """Instance-Level Meta Normalization over (N, C) or (N, C, L); see :class:`InstanceMetaNorm`."""


class InstanceMetaNorm2d(InstanceMetaNorm, rank=2):
    """Instance-Level Meta Normalization over (N, C, H, W); see :class:`InstanceMetaNorm`."""


class InstanceMetaNorm3d(InstanceMetaNorm, rank=3):
    """Instance-Level Meta Normalization over (N, C, D, H, W); see :class:`InstanceMetaNorm`."""
