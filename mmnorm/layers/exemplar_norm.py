"""Exemplar Normalization: "Exemplar Normalization for Learning Deep Representation" (arXiv 2003.08761)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from ..registry import register
from .base import check_batch_norm_options, check_positive_int
from .pooled import SOFTMAX_FLOPS, PooledNorm
from .state_dict import AFFINE, ForeignState, merge_affine, split_affine

RATIO_NETS = ('pairwise', 'mlp')
ACTIVATIONS = ('tanh', 'relu')


@register('EN')
class ExemplarNorm(PooledNorm):
    r"""Exemplar Normalization (EN) over input of any rank; use the 1d, 2d or 3d class.

    Every sample n has importance ratios :math:`\lambda_n^k` of its own (EN paper, Eqn. 3):

    .. math::
        y_n = \sum_k \left( \gamma^k \lambda_n^k \frac{x_n - \mu^k}{\sqrt{(\sigma^k)^2 + \epsilon}} + \beta^k \right)

    They come from a small net (EN paper, Section 3.3). The average-pooled input :math:`\bar x_n` (C values) is
    normalized by each of the K normalizers to :math:`\hat x_n^k`; a convolution over each r channels gives
    :math:`z_n` (C/r, K); the pairwise correlations :math:`v_n = z_n^T z_n` (K, K) go through two fully connected
    layers with tanh between them, then softmax. For an IN normalizer the pooled input is its own mean, so
    :math:`\hat x_n^k` is zero there, in the paper too.

    With a pool of one normalizer the ratios are 1 and the layer is that normalizer: ``('BN',)`` is ``nn.BatchNorm``.

    Args:
        num_features: Number of channels C.
        eps: Added to variances before the square root.
        momentum: Weight of the new value in the running statistics, as in PyTorch; None is a cumulative average.
        normalizers: Any non-empty choice of 'IN', 'LN', 'BN' and 'GN'; K is their number.
        num_groups: Number of groups of GN; gcd(C, num_groups) is used.
        init_ratios: Importance ratios of the K normalizers at the start, for every sample; None is uniform.
        sync: In training, take BN's statistics over the values of all processes.
        reduction: r, the channels that one output of the convolution sees; gcd(C, reduction) is used.
        expansion: pi; the hidden layer has expansion * K units. Unused by the MLP.
        ratio_net: 'pairwise' as above, or 'mlp': two fully connected layers see :math:`\bar x_n` itself and reduce it
            from C to C/r, then to K values (EN paper, Table 9 (a), with r = 32).
        conv: Whether the pairwise net has the convolution; without, :math:`z_n = \hat x_n` (Table 9).
        ratio_activation: 'tanh' or 'relu' between the fully connected layers (Table 9).
        shared_affine: One gamma and beta for all normalizers instead of one each (Table 9).
        affine: Whether gamma and beta are learned; without, they are 1 and 0.
        track_running_stats: Whether BN keeps running statistics and uses them in eval mode.
        activation: What follows in the same pass: 'relu', 'leaky_relu', 'silu', 'gelu' or None.
        negative_slope: That of 'leaky_relu'.
        device: Where the parameters are created.
        dtype: The type of the parameters.
        **unused: What else BatchNorm and SyncBatchNorm take is accepted, so that a norm_cfg written for them fits.

    Attributes:
        weight: gamma, (K, C), initially 1; (C,) with ``shared_affine``.
        bias: beta, (K, C), initially 0; (C,) with ``shared_affine``.
        conv_weight: (C/r, r).
        fc1_weight: (expansion * K, K * K); (C/r, C) with the MLP.
        fc1_bias: (expansion * K,); (C/r,) with the MLP.
        fc2_weight: (K, expansion * K), (K, C/r) with the MLP; initially 0, so that the ratios start at ``init_ratios``.
        fc2_bias: (K,), initially 0 or the logits of ``init_ratios``.
        running_mean: (C,), only with BN in the pool.
        running_var: (C,), unbiased, only with BN in the pool.

    Raises:
        ValueError: If an argument is out of its range.
    """

    paper = ('Exemplar Normalization for Learning Deep Representation', '2003.08761')
    own_parameters = ('conv_weight', 'fc1_weight', 'fc1_bias', 'fc2_weight', 'fc2_bias')
    # Some variants have no convolution.
    marker = own_parameters[1:]
    learns = 'ratios'
    conv_weight: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        normalizers: Sequence[str] = ('IN', 'LN', 'BN'),
        num_groups: int = 32,
        init_ratios: Sequence[float] | None = None,
        sync: bool = False,
        reduction: int = 32,
        expansion: int = 50,
        ratio_net: str = 'pairwise',
        conv: bool = True,
        ratio_activation: str = 'tanh',
        shared_affine: bool = False,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str | None = None,
        negative_slope: float = 0.01,
        device=None,
        dtype=None,
        **unused,
    ) -> None:
        check_batch_norm_options(type(self).__name__, unused)
        super().__init__(
            num_features,
            eps,
            momentum,
            normalizers,
            num_groups,
            init_ratios,
            sync,
            affine,
            track_running_stats,
            activation,
            negative_slope,
            device=device,
            dtype=dtype,
        )
        if ratio_net not in RATIO_NETS:
            raise ValueError(f'ratio_net must be one of {", ".join(RATIO_NETS)}, got {ratio_net!r}')
        if ratio_activation not in ACTIVATIONS:
            raise ValueError(f'ratio_activation must be one of {", ".join(ACTIVATIONS)}, got {ratio_activation!r}')
        self.reduction = math.gcd(self.num_features, check_positive_int('reduction', reduction))
        self.expansion = check_positive_int('expansion', expansion)
        self.ratio_net = ratio_net
        # The MLP takes the place of the convolution too.
        self.conv = conv and ratio_net == 'pairwise'
        self.ratio_activation = ratio_activation
        self.shared_affine = shared_affine

        c, k, r = self.num_features, len(self.normalizers), self.reduction
        factory = {'device': device, 'dtype': dtype}
        self.register_affine(*((c,) if shared_affine else (k, c)), **factory)
        # Plain parameters, not nn.Linear and nn.Conv1d: init_cfg of a parent module would re-initialize those, and
        # the uniform start would be lost.
        self.register_parameter('conv_weight', nn.Parameter(torch.empty(c // r, r, **factory)) if self.conv else None)
        hidden, inputs = (self.expansion * k, k * k) if ratio_net == 'pairwise' else (c // r, c)
        self.fc1_weight = nn.Parameter(torch.empty(hidden, inputs, **factory))
        self.fc1_bias = nn.Parameter(torch.empty(hidden, **factory))
        self.fc2_weight = nn.Parameter(torch.empty(k, hidden, **factory))
        self.fc2_bias = nn.Parameter(torch.empty(k, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gamma 1, beta 0, ratios uniform or ``init_ratios``, the rest as nn.Conv1d and nn.Linear start."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)
        for parameter in (self.conv_weight, self.fc1_weight):
            if parameter is not None:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
        bound = 1 / math.sqrt(self.fc1_weight.shape[1])
        nn.init.uniform_(self.fc1_bias, -bound, bound)
        # Only the last layer starts at zero: with conv and fc1 at zero too, no gradient would ever reach any of them.
        nn.init.zeros_(self.fc2_weight)
        with torch.no_grad():
            self.fc2_bias.copy_(self._initial_logits())

    @torch.no_grad()
    def importance_ratios(self, x: Tensor) -> Tensor:
        r"""The ratios that the layer gives each sample, in the mode that it is in, without a trace in its statistics.

        Args:
            x: Input of the layer, (N, C, \\*). Where :attr:`sync` takes effect, every process gives its own.

        Returns:
            Tensor (N, K), rows sum to 1, in the order of ``normalizers``; float32, or float64 for such input. NaN where
            ``x`` has no positions.
        """
        self._check_input(x)
        dtype = ops.accumulation_dtype(x.dtype)
        planes = x if x.numel() else x[:0]
        with torch.autocast(x.device.type, enabled=False):
            mean, var = ops.moments(planes)
            # Also without any: other processes may wait for this one.
            pooled = self.pool(mean, var, self._positions(x), update_running_stats=False)
            if x.numel() == 0:
                return torch.full((x.shape[0], len(self.normalizers)), math.nan, device=x.device, dtype=dtype)
            return self.ratios(mean, *pooled).to(dtype)

    def coefficients(
        self, mean: Tensor, var: Tensor, positions: int, update_running_stats: bool = True
    ) -> tuple[Tensor, Tensor]:
        pooled = self.pool(mean, var, positions, update_running_stats)
        return ops.mix_outputs(*pooled, self.ratios(mean, *pooled), self.weight, self.bias, eps=self.eps)

    def ratios(self, mean: Tensor, deviation: Tensor, variance: Tensor) -> Tensor:
        """The importance ratios.

        Args:
            mean: The pooled input, which is the mean of each plane, (N, C).
            deviation: As :meth:`pool` returns it, (K, N, C).
            variance: As :meth:`pool` returns it, (K, N, C).

        Returns:
            Tensor (N, K); rows sum to 1.
        """
        if self.ratio_net == 'pairwise':
            features = ops.correlate(deviation, variance, self.conv_weight, eps=self.eps)
        else:
            features = mean.to(deviation.dtype)
        parameters = (self.fc1_weight, self.fc1_bias, self.fc2_weight, self.fc2_bias)
        return ops.perceptron(features, *parameters, hidden=self.ratio_activation, output='softmax')

    @classmethod
    def reduce_state(cls, entries: dict[str, Tensor], state: ForeignState) -> None:
        """Gamma by the ratios of a sample without correlations, the sum of the betas; ratios if all have the same."""
        weight, bias = (state.entries.get(name) for name in AFFINE)
        if weight is not None and bias is not None and weight.dim() == bias.dim() == 2:
            if (weight != weight[0]).any():
                state.dropped.append('the differences between the gammas of the normalizers')
            merged = merge_affine(weight, bias, entries['fc2_bias'].float().softmax(0))
            state.entries.update(zip(AFFINE, merged, strict=True))
        if entries['fc2_weight'].any():
            state.dropped.append('the ratios of each sample')
        else:
            state.logits = entries['fc2_bias']

    def adapt_state(self, state: ForeignState) -> tuple[list[str], list[str]]:
        words = super().adapt_state(state)
        affine = [state.entries[name] for name in AFFINE if name in state.entries]
        if self.affine and not self.shared_affine and [t.dim() for t in affine] == [1, 1]:
            weight, bias = affine
            rows = split_affine(weight, bias, len(self.normalizers))
            state.entries.update(zip(AFFINE, rows, strict=True))
        return words

    def _adapt_ratios(self, logits: Tensor, state: ForeignState) -> tuple[list[str], list[str]]:
        kept, lost = 'ratios', []
        if logits.dim() == 2:
            if not torch.equal(*logits.float().softmax(1)):
                lost.append('the weights of the means')
            logits, kept = logits[1], 'the weights of the variances as ratios'
        state.entries.update(fc2_weight=torch.zeros_like(self.fc2_weight), fc2_bias=logits - logits.mean())
        return [kept], lost

    def typical_ratios(self) -> Tensor:
        """Those of a sample without correlations."""
        return self.fc2_bias.detach().to(ops.accumulation_dtype(self.fc2_bias.dtype)).softmax(0)

    def sole_normalizer(self) -> str | None:
        """Also one of several, where every sample has the same ratios and the others have none, or no gamma."""
        sole = super().sole_normalizer()
        if sole is not None or self._has_ratios_of_samples():
            return sole
        ratios = self.typical_ratios()
        gamma = None if self.weight is None else self.weight.detach()
        return self._sole(ratios if gamma is None else ratios[:, None].to(gamma.dtype) * gamma)

    def why_not_fixed(self) -> str | None:
        if self.running_mean is not None and len(self.normalizers) > 1 and self._has_ratios_of_samples():
            return 'its ratios depend on the sample'
        return super().why_not_fixed()

    def _has_ratios_of_samples(self) -> bool:
        """Whether the ratios may differ between samples; on the meta device, where nobody knows, they may."""
        return self.fc2_weight.is_meta or bool(self.fc2_weight.any())

    def plain_affine(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        if self.weight is None or self.bias is None:
            return None, None
        if self.weight.dim() == 1:
            return self.weight, self.bias
        return merge_affine(self.weight, self.bias, self.typical_ratios())

    def coefficient_flops(self, images: int) -> int:
        c, k = self.num_features, len(self.normalizers)
        planes, (hidden, inputs) = images * c, self.fc1_weight.shape
        # Eps and root.
        flops = self.pool_flops(images) + 2 * k * planes
        if self.ratio_net == 'pairwise':
            # Normalized means, and their convolution.
            flops += (2 if self.conv else 1) * k * planes
            flops += images * k * k * (c // self.reduction if self.conv else c)
        # Two fully connected layers, and the activation between them.
        flops += images * (hidden * inputs + hidden + k * hidden + SOFTMAX_FLOPS * k)
        # Scale and shift.
        flops += 2 * k * planes
        if self.bias is not None:
            rows = self.bias.numel() // c
            # Ratios times gamma; sum of the betas, and its addition.
            flops += k * planes + (rows - 1) * c + planes
        return flops

    def extra_repr(self) -> str:
        text = f'{super().extra_repr()}, reduction={self.reduction}'
        if self.ratio_net != 'pairwise':
            text += f', ratio_net={self.ratio_net!r}'
        else:
            text += f', expansion={self.expansion}'
            if not self.conv:
                text += ', conv=False'
        if self.ratio_activation != 'tanh':
            text += f', ratio_activation={self.ratio_activation!r}'
        if self.shared_affine:
            text += ', shared_affine=True'
        return text


class ExemplarNorm1d(ExemplarNorm, rank=1):
    """Exemplar Normalization over (N, C) or (N, C, L); see :class:`ExemplarNorm`."""


class ExemplarNorm2d(ExemplarNorm, rank=2):
    """Exemplar Normalization over (N, C, H, W); see :class:`ExemplarNorm`."""


class ExemplarNorm3d(ExemplarNorm, rank=3):
    """Exemplar Normalization over (N, C, D, H, W); see :class:`ExemplarNorm`."""
