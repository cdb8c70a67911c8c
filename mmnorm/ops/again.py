"""Gradients of gradients, for nodes of autograd whose own backward cannot be differentiated."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def differentiate_again(
    function: Callable,
    inputs: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of a function's inputs, with a history of their own.

    Args:
        function: Computes by plain operators, without a trace in anything else, what the node has computed.
        inputs: Its arguments, with their history.
        needs_grad: Which of them need a gradient.
        gradients: Of its outputs; None is zero.

    Returns:
        One for each input; None where none is needed.
    """
    with torch.enable_grad():
        # One input may depend on another, as ratios do on the moments: each is told apart from what it comes from.
        views = [None if t is None else t.view_as(t) for t in inputs]
        outputs = function(*views)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    pairs = [(y, dy) for y, dy in zip(outputs, gradients, strict=True) if dy is not None and y.requires_grad]
    wanted = {i: t for i, (t, needed) in enumerate(zip(views, needs_grad, strict=True)) if needed and t is not None}
    found: list[Tensor | None] = [None] * len(inputs)
    if pairs and wanted:
        ys, dys = zip(*pairs, strict=True)
        of_wanted = torch.autograd.grad(ys, list(wanted.values()), dys, create_graph=True, allow_unused=True)
        for i, gradient in zip(wanted, of_wanted, strict=True):
            found[i] = gradient
    return found
