"""The activations that may follow a layer in the same pass."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    'relu': lambda x, slope: F.relu(x),
    'leaky_relu': F.leaky_relu,
    'silu': lambda x, slope: F.silu(x),
    'gelu': lambda x, slope: F.gelu(x),
}


class Activation(NamedTuple):
    """A function of each value.

    Attributes:
        name: One of :data:`ACTIVATIONS`.
        negative_slope: Slope of 'leaky_relu' below 0.
    """

    name: str
    negative_slope: float = 0.01

    def __call__(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x, self.negative_slope)

    @property
    def slope(self) -> float | None:
        """Slope below 0 of those that have one there, else None."""
        return {'relu': 0.0, 'leaky_relu': self.negative_slope}.get(self.name)


# What the loops for the CPU take no activation for: one whose slope below 0 is that above.
NO_ACTIVATION = 1.0


def slope_of(activation: Activation | None) -> float:
    """The slope below 0 by which the loops for the CPU know an activation.

    Raises:
        ValueError: If it has none.
    """
    if activation is None:
        return NO_ACTIVATION
    if activation.slope is None:
        raise ValueError(f"mmnorm: activation: expected 'relu' or 'leaky_relu', got {activation.name!r}")
    return activation.slope


def activation_of(module: nn.Module) -> Activation | None:
    """What ``module`` computes, where it is one of :data:`ACTIVATIONS`."""
    # Of a subclass nothing is known.
    if type(module) is nn.LeakyReLU:
        return Activation('leaky_relu', module.negative_slope)
    if type(module) is nn.GELU:
        return Activation('gelu') if module.approximate == 'none' else None
    if type(module) is nn.SiLU:
        return Activation('silu')
    return Activation('relu') if type(module) is nn.ReLU else None
