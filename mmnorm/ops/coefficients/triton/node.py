"""A step as a node of autograd: kernels both ways, plain operators for gradients of gradients."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def node(forward: Callable, backward: Callable) -> Callable:
    """A step of the coefficients, as a backend holds it.

    Args:
        forward: Launches the kernels. Takes the step's tensors, contiguous, and its options; returns the outputs and
            what else the backward wants, two tuples.
        backward: Takes the tensors, what ``forward`` has kept, the gradients of the outputs, all contiguous, and the
            options; returns the gradients of the tensors.
    """

    def step(again: Callable, *inputs: Tensor | None, **options) -> tuple[Tensor, ...] | Tensor:
        outputs = _Node.apply(forward, backward, again, options, *inputs)
        return outputs if len(outputs) > 1 else outputs[0]

    return step


class _Node(torch.autograd.Function):
    @staticmethod
    def forward(ctx, forward: Callable, backward: Callable, again: Callable, options: dict, *inputs: Tensor | None):
        outputs, kept = forward(*_dense(inputs), **options)
        ctx.save_for_backward(*inputs, *kept)
        ctx.backward_of_step, ctx.again, ctx.options = backward, again, options
        return outputs

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        needs_grad = ctx.needs_input_grad[4:]
        inputs, kept = ctx.saved_tensors[: len(needs_grad)], ctx.saved_tensors[len(needs_grad) :]
        if torch.is_grad_enabled():
            found = ctx.again(inputs, needs_grad, gradients)
        else:
            found = ctx.backward_of_step(_dense(inputs), kept, _dense(gradients), **ctx.options)
        return None, None, None, None, *(t if needed else None for t, needed in zip(found, needs_grad, strict=True))


def _dense(tensors: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if t is None else t.contiguous().resolve_neg() for t in tensors)
