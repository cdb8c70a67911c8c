r"""What an implementation of the passes offers: a module of these functions, or an object.

x is (N, C, \*), contiguous or channels_last, and so are the other tensors of values. Numbers of planes are (N, C),
contiguous where they come in.
"""

from typing import Protocol

from torch import Tensor

from ..activation import Activation


class Passes(Protocol):
    """The four passes; see :mod:`.reference` for what each computes."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`.reference.moments`."""

    def affine(self, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """See :func:`.reference.affine`."""

    def plane_sums(self, dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """See :func:`.reference.plane_sums`."""

    def input_gradient(
        self, dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, slope: Tensor, offset: Tensor
    ) -> Tensor:
        """See :func:`.reference.input_gradient`."""


class FusedPasses(Passes, Protocol):
    """The same with an activation, or a residual sum and an activation, in each.

    Where the scale and shift of :meth:`affine` are asked for, the activation's argument is computed again from them.
    """

    def affine(
        self, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation | None = None
    ) -> Tensor:
        """``activation(scale * (x - mean) + shift)``."""

    def affine_add(
        self,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        shift: Tensor,
        residual: Tensor,
        activation: Activation | None,
        is_recorded: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """``activation(scale * (x - mean) + shift + residual)``.

        Args:
            x: As in :meth:`affine`, like the next three.
            mean: (N, C).
            scale: (N, C).
            shift: (N, C).
            residual: Of the shape, type and memory format of ``x``.
            activation: Applied to the sum.
            is_recorded: Whether there will be a backward.

        Returns:
            That, and what :meth:`plane_sums_add` is to be given besides; None where it needs nothing.
        """

    def plane_sums(
        self,
        dy: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See :func:`.reference.plane_sums`; after an activation, of the gradient of its argument."""

    def plane_sums_add(
        self, dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, activation: Activation, kept: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same after :meth:`affine_add`, and the gradient of the activation's argument, which is the residual's.

        Args:
            dy: Gradient of the output.
            x: As in :meth:`affine_add`, like the next four.
            mean: (N, C).
            scale: (N, C).
            shift: (N, C).
            activation: That of the sum.
            kept: What :meth:`affine_add` gave.
        """

    def slopes_of(self, bits: Tensor, x: Tensor, slope: float) -> Tensor:
        """What relu or leaky_relu multiplies a gradient by, from the bits that :meth:`affine_add` kept.

        Args:
            bits: The bits.
            x: The input.
            slope: The activation's below 0.

        Returns:
            ``slope`` or 1, of the shape, type and memory format of ``x``.
        """

    def input_gradient(
        self,
        dy: Tensor,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        slope: Tensor,
        offset: Tensor,
        shift: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        """See :func:`.reference.input_gradient`; ``shift`` and ``activation`` are those of :meth:`affine`."""
