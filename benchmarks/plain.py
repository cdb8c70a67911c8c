r"""SN, EN and ILM as a research script writes them: every normalizer over the whole tensor, autograd for the backward.

They compute what the layers of mmnorm compute, from the same parameters, and are what those are timed against. For
half-precision input everything is in that type, which is the least that a script can spend.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mmnorm

NORMALIZER_DIMS = {'IN': (2, 3), 'LN': (1, 2, 3), 'BN': (0, 2, 3)}


class PlainNorm(nn.Module):
    """The formula of a layer in the place of the layer.

    Args:
        layer: SN or EN with normalizers out of IN, LN and BN, or ILM on GN; all in their default variants.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.formula = FORMULAS[type(layer)]

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self.layer, x)


def switchable_norm(layer: mmnorm.SwitchableNorm2d, x: Tensor) -> Tensor:
    """SN paper, Eqn. 3 to 5."""
    means, variances = zip(*(normalizer_moments(layer, x, k) for k in layer.normalizers), strict=True)
    mean_ratios, var_ratios = (t.to(x.dtype).softmax(0) for t in (layer.mean_weight, layer.var_weight))
    mean = sum(w * m for w, m in zip(mean_ratios, means, strict=True))
    var = sum(w * v for w, v in zip(var_ratios, variances, strict=True))
    return (x - mean) / (var + layer.eps).sqrt() * per_channel(layer.weight, x) + per_channel(layer.bias, x)


def exemplar_norm(layer: mmnorm.ExemplarNorm2d, x: Tensor) -> Tensor:
    """EN paper, Eqn. 3, with the ratios of its Section 3.3."""
    moments = [normalizer_moments(layer, x, k) for k in layer.normalizers]
    pooled = x.mean((2, 3), keepdim=True)
    z = torch.stack([((pooled - mean) / (var + layer.eps).sqrt()).flatten(1) for mean, var in moments], 1)  # (N, K, C)
    z = (z.unflatten(2, layer.conv_weight.shape) * layer.conv_weight.to(x.dtype)).sum(3)
    correlations = (z @ z.transpose(1, 2)).flatten(1)
    fc1_weight, fc1_bias, fc2_weight, fc2_bias = (
        p.to(x.dtype) for p in (layer.fc1_weight, layer.fc1_bias, layer.fc2_weight, layer.fc2_bias)
    )
    hidden = torch.tanh(F.linear(correlations, fc1_weight, fc1_bias))
    ratios = F.linear(hidden, fc2_weight, fc2_bias).softmax(1)  # (N, K)
    y = 0
    for k, (mean, var) in enumerate(moments):
        standard = (x - mean) / (var + layer.eps).sqrt()
        ratio = ratios[:, k].reshape(-1, 1, 1, 1)
        y = y + per_channel(layer.weight[k], x) * (ratio * standard) + per_channel(layer.bias[k], x)
    return y


def instance_meta_norm(layer: mmnorm.InstanceMetaNorm2d, x: Tensor) -> Tensor:
    """ILM paper, Section 3, on GN."""
    key_mean, key_var = group_moments(x, layer.num_features // layer.key_group_size)
    encoder, mean_decoder, var_decoder = (
        p.to(x.dtype) for p in (layer.encoder_weight, layer.mean_decoder_weight, layer.var_decoder_weight)
    )
    beta = torch.tanh(F.linear(F.linear(key_mean, encoder).relu(), mean_decoder))
    omega = torch.sigmoid(F.linear(F.linear(key_var, encoder).relu(), var_decoder))
    mean, var, beta, omega = (spread_groups(t, x) for t in (*group_moments(x, layer.num_groups), beta, omega))
    standard = (x - mean) / (var + layer.eps).sqrt()
    return standard * (omega + per_channel(layer.weight, x)) + (beta + per_channel(layer.bias, x))


FORMULAS = {
    mmnorm.SwitchableNorm2d: switchable_norm,
    mmnorm.ExemplarNorm2d: exemplar_norm,
    mmnorm.InstanceMetaNorm2d: instance_meta_norm,
}


def normalizer_moments(layer: nn.Module, x: Tensor, normalizer: str) -> tuple[Tensor, Tensor]:
    """Mean and biased variance that a normalizer uses, broadcastable to x; BN's enter the running statistics."""
    if normalizer == 'BN' and not layer.training:
        return per_channel(layer.running_mean, x), per_channel(layer.running_var, x)
    dims = NORMALIZER_DIMS[normalizer]
    mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
    if normalizer == 'BN':
        with torch.no_grad():
            count = x.numel() / x.shape[1]
            layer.num_batches_tracked.add_(1)
            layer.running_mean.lerp_(mean.flatten().to(layer.running_mean.dtype), layer.momentum)
            layer.running_var.lerp_(var.flatten().to(layer.running_var.dtype) * count / (count - 1), layer.momentum)
    return mean, var


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of groups of channels, (N, groups)."""
    grouped = x.reshape(x.shape[0], groups, -1)
    return grouped.mean(2), grouped.var(2, unbiased=False)


def spread_groups(t: Tensor, x: Tensor) -> Tensor:
    """(N, groups) to (N, C, 1, 1)."""
    return t.repeat_interleave(x.shape[1] // t.shape[1], 1)[:, :, None, None]


def per_channel(t: Tensor, x: Tensor) -> Tensor:
    """(C,) to (C, 1, 1), in the type of x."""
    return t.to(x.dtype)[:, None, None]
