"""Costs of a network of mmpretrain, mmseg or mmdet with one norm after another."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ..timing import median_seconds
from .complexity import Complexity, complexity
from .proposals import fixed_proposals

# Height and width of the images that the papers' networks see, by codebase.
SIZES = {'mmpretrain': (224, 224), 'mmseg': (512, 512), 'mmdet': (800, 1344)}


@dataclass
class Cost:
    """What a network costs with a norm; all but the parameters and the times are per image.

    Attributes:
        norm: As it was asked for, e.g. 'EN(reduction=16)'.
        settings: Its norm_cfg.
        parameters: Of the network.
        norm_parameters: Of which in norms.
        flops: Of a forward pass in eval mode, a multiply-add being one.
        norm_flops: Of which in norms.
        activation_bytes: Kept from the forward pass for the backward, in training mode.
        forward_seconds: Of a forward pass of a batch in eval mode; None if it was not measured.
        step_seconds: Of forward and backward of a batch in training mode, likewise.
    """

    norm: str
    settings: dict = field(repr=False)
    parameters: int
    norm_parameters: int
    flops: float
    norm_flops: float
    activation_bytes: float
    forward_seconds: float | None = None
    step_seconds: float | None = None


def measure_costs(
    networks: Mapping[str, nn.Module], settings: Mapping[str, dict], scope: str, x: Tensor, repeats: int
) -> list[Cost]:
    """Count and time networks.

    Args:
        networks: By the name of their norm, all on the device of ``x``.
        settings: The norm_cfg of each.
        scope: The codebase they are of.
        x: A batch of images, (N, 3, H, W).
        repeats: Number of rounds of the times; 0 measures none.
    """
    costs, forwards, steps = [], {}, {}
    for name, network in networks.items():
        forward = make_forward(network, scope, x)
        counted: Complexity = complexity(network, forward)
        per_image = (v / len(x) for v in (counted.flops, counted.norm_flops, counted.activation_bytes))
        costs.append(Cost(name, settings[name], counted.parameters, counted.norm_parameters, *per_image))
        forwards[name], steps[name] = forward, _training_step(network, forward)
    if repeats:
        with torch.no_grad():
            for network in networks.values():
                network.eval()
            forward_seconds = median_seconds(forwards, repeats, x.device)
        for network in networks.values():
            network.train()
        step_seconds = median_seconds(steps, repeats, x.device)
        for cost in costs:
            cost.forward_seconds, cost.step_seconds = forward_seconds[cost.norm], step_seconds[cost.norm]
    return costs


def make_forward(network: nn.Module, scope: str, x: Tensor) -> Callable[[], Any]:
    """A call of an OpenMMLab model without losses and without post-processing (``mode='tensor'``).

    The heads of a detector run on proposals that are always the same (:mod:`.proposals`).
    """
    if scope != 'mmdet':
        return lambda: network(x, mode='tensor')
    from mmdet.structures import DetDataSample

    size = tuple(x.shape[2:])
    sizes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    samples = [DetDataSample(metainfo=dict(sizes, scale_factor=(1.0, 1.0))) for _ in x]

    def forward() -> Any:
        with fixed_proposals(network, x):
            return network(x, samples, mode='tensor')

    return forward


def _training_step(network: nn.Module, forward: Callable[[], Any]) -> Callable[[], None]:
    def step() -> None:
        network.zero_grad(set_to_none=True)
        reduce(torch.add, (t.float().sum() for t in tensors_in(forward()) if t.requires_grad)).backward()

    return step


def tensors_in(output: Any) -> Iterator[Tensor]:
    """All tensors in whatever a model returns."""
    if isinstance(output, Tensor):
        yield output
        return
    if hasattr(output, 'all_items'):  # mmengine's InstanceData and its like
        output = dict(output.all_items())
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        for item in output:
            yield from tensors_in(item)
