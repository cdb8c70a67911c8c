"""The small nets that predict what the mixing takes, from features of each sample."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .kernel import with_kernels

ACTIVATIONS = {
    'tanh': torch.tanh,
    'relu': torch.relu,
    'sigmoid': torch.sigmoid,
    'leaky_relu': F.leaky_relu,  # slope 0.01 below 0
    'relu6': F.relu6,
    'identity': lambda t: t,
    'softmax': lambda t: t.softmax(1),
}


@with_kernels()
def perceptron(
    features: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    hidden: str,
    output: str,
) -> Tensor:
    r"""Two fully connected layers, :math:`a_2(W_2\, a_1(W_1 f + b_1) + b_2)`, in the type of the features.

    Args:
        features: (N, F).
        weight1: (H, F).
        bias1: (H,), or None for 0.
        weight2: (O, H).
        bias2: (O,), or None for 0.
        hidden: Name of the first activation, one of :data:`ACTIVATIONS`.
        output: Name of the second.

    Returns:
        (N, O).
    """
    weight1, weight2 = weight1.to(features.dtype), weight2.to(features.dtype)
    bias1, bias2 = [b if b is None else b.to(features.dtype) for b in (bias1, bias2)]
    return ACTIVATIONS[output](F.linear(ACTIVATIONS[hidden](F.linear(features, weight1, bias1)), weight2, bias2))
