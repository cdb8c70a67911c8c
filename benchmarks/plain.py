r"""The papers' formulas as a research script writes them: every normalizer over the whole tensor, autograd backward.

They compute what the layers of mmnorm compute, from the same parameters. The tests hold the layers to them in float64,
and the benchmarks time the layers against them. For half-precision input everything is in that type, which is the least
that a script can spend.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    'tanh': torch.tanh,
    'sigmoid': torch.sigmoid,
    'relu': torch.relu,
    'leaky_relu': lambda t: torch.where(t > 0, t, 0.01 * t),
    'relu6': lambda t: t.clamp(0, 6),
    'identity': lambda t: t,
}


def plain(layer: nn.Module, x: Tensor, **options) -> Tensor:
    """What ``layer`` makes of ``x``, without a trace in its running statistics.

    Args:
        layer: Any norm of the package, in any variant.
        x: Its input.
        **options: ``batch``, tensors over whose values BN's statistics are taken rather than over those of x.
    """
    return FORMULAS[layer.kind](layer, x, **options)


class PlainNorm(nn.Module):
    """The formula in the place of its layer, running statistics included.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if self.layer.training and getattr(self.layer, 'running_mean', None) is not None:
            self._track(x.detach())
        return plain(self.layer, x)

    @torch.no_grad()
    def _track(self, x: Tensor) -> None:
        layer, count = self.layer, x.numel() / x.shape[1]
        mean, var = moments_of(x, 'BN', 0)
        layer.num_batches_tracked.add_(1)
        layer.running_mean.lerp_(mean.flatten().to(layer.running_mean.dtype), layer.momentum)
        layer.running_var.lerp_(var.flatten().to(layer.running_var.dtype) * count / (count - 1), layer.momentum)


def switchable_norm(layer: nn.Module, x: Tensor, batch: Sequence[Tensor] | None = None) -> Tensor:
    """SN paper, Eqn. 3 to 5."""
    return mixed_statistics(layer, x, layer.mean_weight.softmax(0), layer.var_weight.softmax(0), batch)


def sparse_switchable_norm(layer: nn.Module, x: Tensor, batch: Sequence[Tensor] | None = None) -> Tensor:
    """The same with sparsestmax."""
    ratios = [sparsestmax(logits, layer.radius) for logits in (layer.mean_weight, layer.var_weight)]
    return mixed_statistics(layer, x, *ratios, batch)


def sparsestmax(z: Tensor, radius: Tensor) -> Tensor:
    """SSN paper: sparsemax; if that is inside of the sphere, away from the center of its face, and again sparsemax."""
    p, k = sparsemax(z), len(z)
    while (p - 1 / k).norm() < radius - 1e-12 and (p > 0).sum() > 1:
        face = (p > 0).to(p.dtype)
        center = face / face.sum()
        within = (radius.to(p.dtype) ** 2 - ((center - 1 / k) ** 2).sum()).sqrt()
        p = sparsemax(center + (p - center) * within / (p - center).norm())
    return p


def sparsemax(z: Tensor) -> Tensor:
    """The point of the simplex nearest to z, (K,): the largest entries of z, less what makes their sum 1."""
    for size in range(len(z), 0, -1):
        kept = z.detach().topk(size).indices
        p = torch.zeros_like(z).scatter(0, kept, z[kept] - (z[kept].sum() - 1) / size)
        if (p[kept] > 0).all():
            break
    return p


def mixed_statistics(layer: nn.Module, x: Tensor, mean_ratios: Tensor, var_ratios: Tensor, batch) -> Tensor:
    """Means and variances of the pool, mixed by ratios (K,)."""
    means, variances = zip(*pool(layer, x, batch), strict=True)
    mean = sum(w * m for w, m in zip(mean_ratios.to(x.dtype), means, strict=True))
    var = sum(w * v for w, v in zip(var_ratios.to(x.dtype), variances, strict=True))
    return (x - mean) / (var + layer.eps).sqrt() * channels(layer.weight, x) + channels(layer.bias, x)


def exemplar_norm(layer: nn.Module, x: Tensor, batch: Sequence[Tensor] | None = None) -> Tensor:
    """EN paper, Eqn. 3."""
    ratios = exemplar_ratios(layer, x, batch)
    y = 0
    for k, (mean, var) in enumerate(pool(layer, x, batch)):
        weight = layer.weight if layer.shared_affine else layer.weight[k]
        ratio = ratios[:, k].reshape(-1, *[1] * (x.dim() - 1))
        y = y + channels(weight, x) * (ratio * ((x - mean) / (var + layer.eps).sqrt()))
        if not layer.shared_affine:
            y = y + channels(layer.bias[k], x)
    return y + channels(layer.bias, x) if layer.shared_affine else y


def exemplar_ratios(layer: nn.Module, x: Tensor, batch: Sequence[Tensor] | None = None) -> Tensor:
    """EN paper, Section 3.3: (N, K)."""
    fc1_weight, fc1_bias, fc2_weight, fc2_bias = (
        p.to(x.dtype) for p in (layer.fc1_weight, layer.fc1_bias, layer.fc2_weight, layer.fc2_bias)
    )
    pooled = x.mean(positions(x), keepdim=True) if positions(x) else x
    if layer.ratio_net == 'mlp':
        features = pooled.flatten(1)
    else:
        hats = [((pooled - mean) / (var + layer.eps).sqrt()).flatten(1) for mean, var in pool(layer, x, batch)]
        z = torch.stack(hats, 1)  # (N, K, C)
        if layer.conv:
            z = (z.unflatten(2, layer.conv_weight.shape) * layer.conv_weight.to(x.dtype)).sum(3)
        features = (z @ z.transpose(1, 2)).flatten(1)
    hidden = ACTIVATIONS[layer.ratio_activation](F.linear(features, fc1_weight, fc1_bias))
    return F.linear(hidden, fc2_weight, fc2_bias).softmax(1)


def instance_meta_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """ILM paper, Section 3."""
    encoder, mean_decoder, var_decoder = (
        p.to(x.dtype) for p in (layer.encoder_weight, layer.mean_decoder_weight, layer.var_decoder_weight)
    )
    key_mean, key_var = group_moments(x, layer.num_features // layer.key_group_size)
    beta = ACTIVATIONS[layer.mean_activation](F.linear(F.linear(key_mean, encoder).relu(), mean_decoder))
    omega = ACTIVATIONS[layer.var_activation](F.linear(F.linear(key_var, encoder).relu(), var_decoder))
    beta, omega = (channels(t.repeat_interleave(layer.key_group_size, 1), x) for t in (beta, omega))
    mean, var = moments_of(x, layer.base, layer.num_groups)
    standard = (x - mean) / (var + layer.eps).sqrt()
    return standard * (omega + channels(layer.weight, x)) + (beta + channels(layer.bias, x))


def batch_norm(layer: nn.Module, x: Tensor, channels_of: slice = slice(None)) -> Tensor:
    """BN without gamma and beta."""
    mean, var = moments_of(x, 'BN', 0)
    if not layer.training:
        mean, var = (channels(t[channels_of], x) for t in (layer.running_mean, layer.running_var))
    return (x - mean) / (var + layer.eps).sqrt()


def affine(layer: nn.Module, y: Tensor) -> Tensor:
    """Gamma and beta."""
    return y * channels(layer.weight, y) + channels(layer.bias, y)


def instance_batch_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """IBN-Net paper, Figure 2 (a): IN of the first channels, BN of the others."""
    number = int(layer.ratio * layer.num_features)
    mean, var = moments_of(x[:, :number], 'IN', 0)
    instance = (x[:, :number] - mean) / (var + layer.eps).sqrt()
    return affine(layer, torch.cat([instance, batch_norm(layer, x[:, number:], slice(number, None))], 1))


def instance_enhancement(layer: nn.Module, x: Tensor) -> Tensor:
    """IEBN paper: a gate from the mean of the input's plane."""
    gate = torch.sigmoid(channels(layer.gate_weight, x) * plane_mean(x) + channels(layer.gate_bias, x))
    return batch_norm(layer, x) * channels(layer.weight, x) * gate + channels(layer.bias, x)


def representative_batch_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """RBN paper: centering calibration, BN, scaling calibration."""
    y = batch_norm(layer, x + channels(layer.center_weight, x) * plane_mean(x))
    gate = torch.sigmoid(channels(layer.gate_weight, x) * plane_mean(y) + channels(layer.gate_bias, x))
    return affine(layer, y * gate)


def batch_channel_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """BCN paper: BN, then GN with a gamma and beta of each group."""
    y = affine(layer, batch_norm(layer, x))
    mean, var = moments_of(y, 'GN', layer.num_groups)
    size = layer.num_features // layer.num_groups
    weight, bias = (channels(t.repeat_interleave(size), x) for t in (layer.group_weight, layer.group_bias))
    return (y - mean) / (var + layer.eps).sqrt() * weight + bias


def batch_renorm(layer: nn.Module, x: Tensor) -> Tensor:
    """Batch Renormalization paper, Algorithm 1."""
    y = batch_norm(layer, x)
    if layer.training:
        mean, var = moments_of(x.detach(), 'BN', 0)
        sigma = (channels(layer.running_var, x) + layer.eps).sqrt()
        r_max, d_max = layer.r_max.item(), layer.d_max.item()
        r = ((var + layer.eps).sqrt() / sigma).clamp(1 / r_max, r_max)
        y = y * r + ((mean - channels(layer.running_mean, x)) / sigma).clamp(-d_max, d_max)
    return affine(layer, y)


def filter_response_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """FRN paper, Eqn. 1 to 3 and, with TLU, 4."""
    squares = x.square().mean(positions(x), keepdim=True) if positions(x) else x.square()
    y = affine(layer, x / (squares + layer.eps + layer.learned_eps.to(x.dtype).abs()).sqrt())
    return y if layer.tlu is None else torch.maximum(y, channels(layer.tlu.tau, y))


def global_response_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """ConvNeXt V2 paper, Eqn. 1 to 3 and the residual."""
    norm = x.square().sum(positions(x), keepdim=True).sqrt() if positions(x) else x.abs()
    response = x * (norm / (norm.mean(1, keepdim=True) + layer.eps))
    return channels(layer.gamma, x) * response + channels(layer.beta, x) + x


def self_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """SelfNorm paper, Eqn. 4 and 5."""
    mean, var = moments_of(x, 'IN', 0)
    std, gates = (var + layer.eps).sqrt(), []
    for part, weights in zip((slice(0, layer.num_features), slice(layer.num_features, None)), layer.attention_weight):
        logits = channels(weights[0], x) * mean + channels(weights[1], x) * std
        logits = batch_norm(layer, logits, part) * channels(layer.weight[part], x) + channels(layer.bias[part], x)
        gates.append(torch.sigmoid(logits))
    return gates[1] * std * ((x - mean) / std) + gates[0] * mean


def plane_mean(x: Tensor) -> Tensor:
    """Mean of each plane, broadcastable to x."""
    return x.mean(positions(x), keepdim=True) if positions(x) else x


FORMULAS = {
    'SN': switchable_norm,
    'SSN': sparse_switchable_norm,
    'EN': exemplar_norm,
    'ILM': instance_meta_norm,
    'BCN': batch_channel_norm,
    'BRN': batch_renorm,
    'FRN': filter_response_norm,
    'GRN': global_response_norm,
    'IBN': instance_batch_norm,
    'IEBN': instance_enhancement,
    'RBN': representative_batch_norm,
    'SelfNorm': self_norm,
}


def pool(layer: nn.Module, x: Tensor, batch: Sequence[Tensor] | None = None) -> list[tuple[Tensor, Tensor]]:
    """Mean and biased variance of each normalizer, broadcastable to x."""
    found = []
    for normalizer in layer.normalizers:
        if normalizer == 'BN' and not layer.training:
            found.append((channels(layer.running_mean, x), channels(layer.running_var, x)))
        elif normalizer == 'BN' and batch is not None:
            found.append(tuple(channels(t, x) for t in batch_moments(batch)))
        else:
            found.append(moments_of(x, normalizer, layer.num_groups))
    return found


def moments_of(x: Tensor, normalizer: str, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance that a normalizer takes of x, broadcastable to it."""
    if normalizer == 'GN':
        size = x.shape[1] // num_groups
        return tuple(channels(t.repeat_interleave(size, 1), x) for t in group_moments(x, num_groups))
    dims = {'IN': positions(x), 'LN': (1, *positions(x)), 'BN': (0, *positions(x))}[normalizer]
    if not dims:
        # IN over (N, C): one value a plane.
        return x, torch.zeros_like(x)
    return x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of groups of channels, (N, groups)."""
    grouped = x.reshape(x.shape[0], groups, -1)
    return grouped.mean(2), grouped.var(2, unbiased=False)


def batch_moments(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (C,), over all the values of several tensors of any size."""
    values = torch.cat([x.transpose(0, 1).flatten(1) for x in batch], 1)
    return values.mean(1), values.var(1, unbiased=False)


def positions(x: Tensor) -> tuple[int, ...]:
    """The dimensions of the positions of a plane."""
    return tuple(range(2, x.dim()))


def channels(t: Tensor, x: Tensor) -> Tensor:
    """(C,) or (N, C), broadcastable to x, in its type."""
    return t.to(x.dtype).reshape(*((1,) if t.dim() == 1 else ()), *t.shape, *[1] * (x.dim() - 2))
