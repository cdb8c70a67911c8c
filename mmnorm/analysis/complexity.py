"""What a network costs: parameters, FLOPs, and the memory that training keeps between forward and backward.

``mmengine.analysis`` traces the model and counts operators. Of the learned norms it sees a part of the plain operators
that stand in for them under tracing. Here convolutions and matrix products are counted as they run, and norms by
formula (:mod:`.norm_flops`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ..convert.sources import kind_of
from .norm_flops import norm_flops


@dataclass
class Complexity:
    """Costs of a network.

    Attributes:
        parameters: Number of parameters.
        norm_parameters: Of which in norms.
        flops: Of a forward pass in eval mode, for the whole batch; a multiply-add is one. Convolutions, matrix products
            and norms; no activations, pooling or resizing.
        norm_flops: Of which in norms.
        activation_bytes: What a forward pass in training mode keeps for the backward, without parameters and buffers,
            for the whole batch.
    """

    parameters: int
    norm_parameters: int
    flops: int
    norm_flops: int
    activation_bytes: int


def complexity(model: nn.Module, forward: Callable[[], object]) -> Complexity:
    """Count what ``model`` costs. Modes are afterwards as before; running statistics move by a batch.

    Args:
        model: The network.
        forward: Runs it once, on whatever input.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        flops, in_norms = count_flops(model, forward)
        model.train()
        kept = activation_bytes(model, forward)
    finally:
        for module, mode in modes.items():
            module.training = mode
    norms = {id(p): p.numel() for norm in _norms(model) for p in norm.parameters(recurse=False)}
    parameters = sum(p.numel() for p in model.parameters())
    return Complexity(parameters, sum(norms.values()), flops, in_norms, kept)


@torch.no_grad()
def count_flops(model: nn.Module, forward: Callable[[], object]) -> tuple[int, int]:
    """FLOPs of ``forward``, and of the norms in it, in the mode that the model is in."""
    counter = FlopCounterMode(display=False)
    by_formula = seen_inside = 0
    before = {}

    def enter(module: nn.Module, args: tuple) -> None:
        before[module] = counter.get_total_flops()

    def leave(module: nn.Module, args: tuple, output) -> None:
        nonlocal by_formula, seen_inside
        # The matrix products of a ratio net have been seen, and are in the formula.
        seen_inside += counter.get_total_flops() - before[module]
        by_formula += norm_flops(module, args[0].shape).total

    hooks = []
    for norm in _norms(model):
        hooks += [norm.register_forward_pre_hook(enter), norm.register_forward_hook(leave)]
    try:
        with counter:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    # PyTorch counts a multiply-add as two.
    return (counter.get_total_flops() - seen_inside) // 2 + by_formula, by_formula


def activation_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that autograd keeps after ``forward``: memory that several layers keep counts once."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            # Held, so that no address comes twice.
            kept[storage.data_ptr()] = storage
        return t.detach()

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda t: t):
        # Until it is counted: what autograd keeps goes with the output.
        output = forward()
        total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total


def _norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if kind_of(module) not in (None, 'other')]
