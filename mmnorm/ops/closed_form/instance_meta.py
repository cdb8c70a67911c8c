"""Instance-Level Meta Normalization (ILM paper, Section 3)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .pool import PoolForm

# The derivative of an activation, from its value.
DERIVATIVES = {
    'sigmoid': lambda y: y * (1 - y),
    'tanh': lambda y: 1 - y.square(),
    'relu': lambda y: (y > 0).to(y.dtype),
    'identity': torch.ones_like,
}
ACTIVATIONS = {'sigmoid': torch.sigmoid, 'tanh': torch.tanh, 'relu': torch.relu, 'identity': lambda x: x}


class InstanceMetaForm:
    r"""Scale and shift of ILM, with the base's inverse standard deviation i and deviation d of the center:

    .. math::
        \mathrm{scale} = \omega i, \qquad \mathrm{shift} = \mathrm{scale}\; d + \beta

    Args:
        base: The normalizer that standardizes.
        num_keys: Number of key groups G.
        eps: Added to the variance.
        dtype: The type to compute in.
        mean_activation: Of the decoder of the mean.
        var_activation: Of the decoder of the variance.
    """

    def __init__(
        self,
        base: PoolForm,
        num_keys: int,
        eps: float,
        dtype: torch.dtype,
        mean_activation: str = 'tanh',
        var_activation: str = 'sigmoid',
    ) -> None:
        self.base = base
        self.keys = PoolForm('GN', dtype, num_keys)
        self.num_keys = num_keys
        self.eps = eps
        self.dtype = dtype
        self.mean_activation = mean_activation
        self.var_activation = var_activation

    def _by_key(self, t: Tensor) -> Tensor:
        """(N, C) to (N, G, C / G)."""
        return t.view(t.shape[0], self.num_keys, -1)

    def forward(
        self,
        mean: Tensor,
        var: Tensor,
        center: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        encoder: Tensor,
        mean_decoder: Tensor,
        var_decoder: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        var = var.to(self.dtype)
        n = mean.shape[0]
        deviation, pooled_var = self.base.forward(mean, var, center)
        key_mean = self._by_key(mean).sum(2, keepdim=True).mul_(self.num_keys / mean.shape[1])
        key_deviation = (self._by_key(center) - key_mean).to(self.dtype)
        key_var = (
            torch.addcmul(self._by_key(var), key_deviation, key_deviation).sum(2).mul_(self.num_keys / mean.shape[1])
        )
        keys = torch.cat([key_mean.squeeze(2).to(self.dtype), key_var])  # (2N, G): both through one encoder
        embedding = F.linear(keys, encoder.to(self.dtype)).relu_()
        beta = ACTIVATIONS[self.mean_activation](F.linear(embedding[:n], mean_decoder.to(self.dtype)))
        omega = ACTIVATIONS[self.var_activation](F.linear(embedding[n:], var_decoder.to(self.dtype)))

        gain = (omega[..., None] + self._by_key(torch.ones_like(var[:1]) if weight is None else weight[None])).flatten(
            1
        )
        inv_std = (pooled_var + self.eps).rsqrt_()
        scale = gain * inv_std
        shift = torch.zeros_like(scale) if deviation is None else scale * deviation
        self._by_key(shift).add_(beta[..., None])
        if bias is not None:
            shift += bias
        return scale, shift, (deviation, inv_std, gain, scale, key_deviation, keys, embedding, beta, omega)

    def backward(
        self, saved: tuple[Tensor | None, ...], params: tuple[Tensor | None, ...], dscale: Tensor, dshift: Tensor
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        deviation, inv_std, gain, scale, key_deviation, keys, embedding, beta, omega = saved
        weight, bias, encoder, mean_decoder, var_decoder = (None if p is None else p.to(self.dtype) for p in params)
        n, size = dscale.shape[0], key_deviation.shape[2]

        # shift = scale * deviation + beta, scale = gain * inv_std, gain = omega + weight
        if deviation is not None:
            dscale = torch.addcmul(dscale, dshift, deviation)
        dgain = dscale * inv_std
        dweight = None if weight is None else dgain.sum(0)
        dbias = None if bias is None else dshift.sum(0)
        dpooled_var = (dgain * scale).mul_(inv_std).mul_(-0.5)

        # The decoders and the encoder that both share.
        dbeta = self._by_key(dshift).sum(2).mul_(DERIVATIVES[self.mean_activation](beta))
        domega = self._by_key(dgain).sum(2).mul_(DERIVATIVES[self.var_activation](omega))
        dembedding = torch.cat([dbeta @ mean_decoder, domega @ var_decoder]).mul_(embedding > 0)
        dkeys = (dembedding @ encoder).div_(size)[..., None]  # (2N, G, 1)
        dencoder = dembedding.t() @ keys
        dmean_decoder, dvar_decoder = dbeta.t() @ embedding[:n], domega.t() @ embedding[n:]

        # Key means and variances are pools over the channels of a group.
        dmean = torch.addcmul(dkeys[:n], key_deviation, dkeys[n:], value=2).flatten(1)
        dvar = dkeys[n:].expand_as(key_deviation).flatten(1).clone()
        gradients = self.base.backward(deviation, dshift * scale, dpooled_var, (dmean, dvar))
        return *gradients, (dweight, dbias, dencoder, dmean_decoder, dvar_decoder)
