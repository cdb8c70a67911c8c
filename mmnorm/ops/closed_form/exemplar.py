"""Exemplar Normalization (EN paper, Eqn. 3 and Section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .pool import PoolForm


class ExemplarForm:
    r"""Scale and shift of EN, with inverse standard deviations i and normalized pooled inputs h = i (c - mu):

    .. math::
        \mathrm{scale} = \sum_k \lambda_n^k \gamma^k i^k, \qquad
        \mathrm{shift} = \sum_k \lambda_n^k \gamma^k h^k + \sum_k \beta^k

    Args:
        pools: The K normalizers.
        eps: Added to the variances.
        dtype: The type to compute in.
        pairwise: Whether the ratio net sees the pairwise correlations of h, else the pooled input itself.
        tanh: Whether tanh stands between its two layers, else ReLU.
    """

    def __init__(
        self, pools: Sequence[PoolForm], eps: float, dtype: torch.dtype, pairwise: bool = True, tanh: bool = True
    ) -> None:
        self.pools = pools
        self.eps = eps
        self.dtype = dtype
        self.pairwise = pairwise
        self.tanh = tanh

    def forward(
        self,
        mean: Tensor,
        var: Tensor,
        center: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        conv_weight: Tensor | None,
        fc1_weight: Tensor,
        fc1_bias: Tensor,
        fc2_weight: Tensor,
        fc2_bias: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        var = var.to(self.dtype)
        n, c = mean.shape
        k = len(self.pools)
        pooled = [pool.forward(mean, var, center) for pool in self.pools]
        # (N, K, C) throughout, as the ratio net wants it.
        deviations = torch.stack([torch.zeros_like(var) if d is None else d for d, _ in pooled], 1)
        variances = torch.stack([v.expand_as(var) for _, v in pooled], 1)
        inv_std = variances.add_(self.eps).rsqrt_()
        hat = deviations * inv_std
        z = features = None
        if self.pairwise:
            z = hat
            if conv_weight is not None:
                z = (hat.view(n, k, *conv_weight.shape) * conv_weight).sum(3)
            features = torch.bmm(z, z.transpose(1, 2)).view(n, -1)
        else:
            features = center
        hidden = F.linear(features, fc1_weight.to(self.dtype), fc1_bias.to(self.dtype))
        hidden = hidden.tanh_() if self.tanh else hidden.relu_()
        ratios = F.linear(hidden, fc2_weight.to(self.dtype), fc2_bias.to(self.dtype)).softmax(1)
        gains = ratios[:, :, None] * (1 if weight is None else weight.view(-1, c))
        scale = (gains * inv_std).sum(1)
        shift = (gains * hat).sum(1)
        if bias is not None:
            shift += bias if bias.dim() == 1 else bias.sum(0)
        return scale, shift, (deviations, inv_std, hat, z, features, hidden, ratios, gains)

    def backward(
        self, saved: tuple[Tensor | None, ...], params: tuple[Tensor | None, ...], dscale: Tensor, dshift: Tensor
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        deviations, inv_std, hat, z, features, hidden, ratios, gains = saved
        weight, bias, conv_weight, fc1_weight, _, fc2_weight, _ = params
        n, k, c = hat.shape
        dscale, dshift = dscale[:, None], dshift[:, None]

        # scale = sum_k gains * inv_std, shift = sum_k gains * hat + sum_k bias, gains = ratios * weight
        dgains = torch.addcmul(dscale * inv_std, dshift, hat)
        dweight = dbias = None
        if weight is not None:
            dweight = (dgains * ratios[:, :, None]).sum(0)
            dgains = dgains.mul_(weight.view(-1, c))
            dweight = dweight.sum(0) if weight.dim() == 1 else dweight
        if bias is not None:
            dbias = dshift.sum((0, 1))
            dbias = dbias.expand(k, c) if bias.dim() == 2 else dbias
        dratios = dgains.sum(2)
        dinv_std = dscale * gains

        # The ratio net, from its end. Its input is the mean itself, not the constant that the center is to the rest.
        dlogits = ratios * (dratios - (ratios * dratios).sum(1, keepdim=True))
        dhidden = dlogits @ fc2_weight.to(self.dtype)
        dhidden = dhidden.addcmul_(dhidden, hidden.square(), value=-1) if self.tanh else dhidden.mul_(hidden > 0)
        dfeatures = dhidden @ fc1_weight.to(self.dtype)
        dconv = None
        if self.pairwise:
            # features = z z^T
            dfeatures = dfeatures.view(n, k, k)
            dhat = torch.bmm(dfeatures + dfeatures.transpose(1, 2), z)
            if conv_weight is not None:
                dz = dhat.unsqueeze(3)
                dconv = (hat.view(n, k, *conv_weight.shape) * dz).sum((0, 1))
                dhat = (dz * conv_weight).view(n, k, c)
            dpooled = (dhat * inv_std).sum(1)
            dhat.addcmul_(dshift, gains)
        else:
            dpooled = dfeatures
            dhat = dshift * gains

        # hat = deviations * inv_std, inv_std = (variances + eps) ** -0.5
        ddeviations = dhat * inv_std
        dvariances = dinv_std.addcmul_(dhat, deviations).mul_(inv_std.square() * inv_std).mul_(-0.5)
        gradients = dpooled, None
        for i, pool in enumerate(self.pools):
            gradients = pool.backward(deviations[:, i], ddeviations[:, i], dvariances[:, i], gradients)
        dfc1, dfc2 = dhidden.t() @ features, dlogits.t() @ hidden
        return *gradients, (dweight, dbias, dconv, dfc1, dhidden.sum(0), dfc2, dlogits.sum(0))
