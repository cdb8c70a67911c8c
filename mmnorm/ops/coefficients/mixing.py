r"""The kinds of mixing: from the moments of a pool, and what is learned, to scale and shift of each plane.

Of each normalizer k they take the deviation :math:`d_k = \bar x - \mu_k` of the plane's mean from its mean, and its
variance :math:`v_k`, as :func:`.pool` gives them, and return the two numbers of ``y = scale * (x - mean) + shift``.
"""

from torch import Tensor

from .kernel import with_kernels


@with_kernels()
def mix_statistics(
    deviation: Tensor,
    variance: Tensor,
    ratios: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    r"""Mixing of statistics (SN paper, Eqn. 3), with ratios p of the means and q of the variances.

    .. math::
        \mathrm{scale} = \gamma / \sqrt{\sum_k q_k v_k + \epsilon}, \qquad
        \mathrm{shift} = \mathrm{scale} \sum_k p_k d_k + \beta

    Args:
        deviation: (K, N, C).
        variance: (K, N, C).
        ratios: p, then q, (2, K); each sums to 1.
        weight: gamma, (C,), or None for 1.
        bias: beta, (C,), or None for 0.
        eps: Added to the mixed variance.

    Returns:
        Scale and shift, (N, C).
    """
    mean_ratios, var_ratios = ratios.to(deviation.dtype)[:, :, None, None]
    scale = ((var_ratios * variance).sum(0) + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(scale.dtype)
    shift = scale * (mean_ratios * deviation).sum(0)
    return scale, shift if bias is None else shift + bias.to(shift.dtype)


@with_kernels()
def mix_outputs(
    deviation: Tensor,
    variance: Tensor,
    ratios: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    r"""Mixing of outputs (EN paper, Eqn. 3), with ratios :math:`\lambda_n^k` of each sample.

    .. math::
        \mathrm{scale} = \sum_k \gamma^k \lambda_n^k / \sqrt{v_k + \epsilon}, \qquad
        \mathrm{shift} = \sum_k \gamma^k \lambda_n^k d_k / \sqrt{v_k + \epsilon} + \sum_k \beta^k

    Args:
        deviation: (K, N, C).
        variance: (K, N, C).
        ratios: (N, K); each row sums to 1.
        weight: gamma, (K, C), or (C,) for all normalizers, or None for 1.
        bias: beta, (K, C), or (C,) for their sum, or None for 0.
        eps: Added to the variances.

    Returns:
        Scale and shift, (N, C).
    """
    gains = ratios.to(deviation.dtype).t().unsqueeze(2)  # (K, N, 1)
    if weight is not None:
        gains = gains * weight.to(deviation.dtype).reshape(-1, 1, deviation.shape[2])
    gains = gains * (variance + eps).rsqrt()
    scale, shift = gains.sum(0), (gains * deviation).sum(0)
    return scale, shift if bias is None else shift + bias.to(shift.dtype).reshape(-1, deviation.shape[2]).sum(0)


@with_kernels()
def correlate(deviation: Tensor, variance: Tensor, conv_weight: Tensor | None, *, eps: float) -> Tensor:
    r"""Pairwise correlations of the normalized means (EN paper, Section 3.3), what EN's ratios are made from.

    :math:`\hat x^k = d_k / \sqrt{v_k + \epsilon}`, a convolution of each r neighbouring channels of it gives
    :math:`z` (C/r, K), and :math:`v = z^T z`.

    Args:
        deviation: (K, N, C).
        variance: (K, N, C).
        conv_weight: (C/r, r), or None for no convolution.
        eps: Added to the variances.

    Returns:
        (N, K * K).
    """
    z = (deviation * (variance + eps).rsqrt()).transpose(0, 1)  # (N, K, C)
    if conv_weight is not None:
        z = (z.unflatten(2, conv_weight.shape) * conv_weight.to(z.dtype)).sum(3)
    # Not a matrix product, which some versions of onnxruntime do not have in float64.
    return (z.unsqueeze(2) * z.unsqueeze(1)).sum(3).flatten(1)


@with_kernels()
def rescale(
    deviation: Tensor,
    variance: Tensor,
    omega: Tensor,
    beta: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    r"""Predicted rescaling of one normalizer (ILM paper, Section 3), by group g of neighbouring channels.

    .. math::
        \mathrm{scale} = (\omega_{ng} + B_\omega) / \sqrt{v + \epsilon}, \qquad
        \mathrm{shift} = \mathrm{scale} \cdot d + \beta_{ng} + B_\beta

    Args:
        deviation: (1, N, C).
        variance: (1, N, C).
        omega: (N, G).
        beta: (N, G).
        weight: :math:`B_\omega`, (C,), or None for 1.
        bias: :math:`B_\beta`, (C,), or None for 0.
        eps: Added to the variance.

    Returns:
        Scale and shift, (N, C).
    """
    size = deviation.shape[2] // omega.shape[1]
    omega, beta = [t.to(deviation.dtype).repeat_interleave(size, 1) for t in (omega, beta)]
    omega = omega + (1 if weight is None else weight.to(omega.dtype))
    scale = omega * (variance[0] + eps).rsqrt()
    shift = scale * deviation[0] + beta
    return scale, shift if bias is None else shift + bias.to(shift.dtype)
