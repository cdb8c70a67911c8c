"""Switchable Normalization (SN paper, Eqn. 3 to 5, and its appendix for the gradients)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .pool import PoolForm


class SwitchableForm:
    r"""Scale and shift of SN with ratios p of the means and q of the variances:

    .. math::
        \mathrm{scale} = \gamma / \sqrt{\sum_k q_k v_k + \epsilon}, \qquad
        \mathrm{shift} = \mathrm{scale} \sum_k p_k (c - \mu_k) + \beta

    Args:
        pools: The K normalizers.
        eps: Added to the variance.
        dtype: The type to compute in.
    """

    def __init__(self, pools: Sequence[PoolForm], eps: float, dtype: torch.dtype) -> None:
        self.pools = pools
        self.eps = eps
        self.dtype = dtype

    def forward(
        self,
        mean: Tensor,
        var: Tensor,
        center: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_weight: Tensor,
        var_weight: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        var = var.to(self.dtype)
        ratios = torch.stack([mean_weight, var_weight]).to(self.dtype).softmax(1)
        deviations, variances = zip(*(pool.forward(mean, var, center) for pool in self.pools), strict=True)
        mixed_var = deviation = None
        self.ratios = ratios.tolist()
        for d, v, p, q in zip(deviations, variances, *self.ratios, strict=True):
            mixed_var = v * q if mixed_var is None else torch.add(mixed_var, v, alpha=q)
            if d is not None:
                deviation = d * p if deviation is None else deviation.add_(d, alpha=p)
        inv_std = (mixed_var + self.eps).rsqrt_()
        scale = inv_std if weight is None else inv_std * weight
        scale = scale.expand_as(var).contiguous()
        shift = torch.zeros_like(scale) if deviation is None else scale * deviation
        if bias is not None:
            shift = shift.add_(bias)
        return scale, shift, (ratios, inv_std, scale, deviation, *deviations, *variances)

    def backward(
        self, saved: tuple[Tensor | None, ...], params: tuple[Tensor | None, ...], dscale: Tensor, dshift: Tensor
    ) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
        ratios, inv_std, scale, deviation, *pooled = saved
        k = len(self.pools)
        deviations, variances = pooled[:k], pooled[k:]

        # shift = scale * deviation + bias
        if deviation is not None:
            dscale = torch.addcmul(dscale, dshift, deviation)
        dweight = None if params[0] is None else (dscale * inv_std).sum(0)
        dbias = None if params[1] is None else dshift.sum(0)
        # scale = weight * inv_std, inv_std = (mixed_var + eps) ** -0.5
        dmixed = (dscale * scale).mul_(inv_std).mul_(inv_std).mul_(-0.5)
        ddeviation = dshift * scale

        zero = ratios.new_zeros(())
        dratios = [zero if d is None else (ddeviation * d).sum() for d in deviations]
        dratios += [(dmixed * v).sum() for v in variances]
        dratios = torch.stack(dratios).view(2, k)
        dlogits = ratios * (dratios - (ratios * dratios).sum(1, keepdim=True))

        gradients = None, None
        for pool, d, p, q in zip(self.pools, deviations, *self.ratios, strict=True):
            gradients = pool.backward(d, ddeviation, dmixed, gradients, p, q)
        return *gradients, (dweight, dbias, dlogits[0], dlogits[1])
