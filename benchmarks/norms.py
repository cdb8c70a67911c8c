"""Prints the costs of docs/norms.md: forward and backward of each norm relative to nn.BatchNorm2d in the same run."""

import argparse
import statistics
from collections.abc import Callable, Sequence

import arguments
import torch
from torch import nn

from mmnorm.registry import NAMES, NORMS
from mmnorm.timing import interleave

SHAPES = ((8, 256, 56, 56), (16, 512, 7, 7))


def step(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> Callable:
    parameters = [p for p in layer.parameters() if p.requires_grad]
    return lambda: torch.autograd.grad(layer(x), [x, *parameters], dy)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=arguments.positive, default=10, metavar='N', help='samples a time')
    options = parser.parse_args(words)
    device = torch.device('cpu')
    costs: dict[str, list[str]] = {kind: [] for kind in NORMS}
    for shape in SHAPES:
        x, dy = torch.randn(shape).requires_grad_(), torch.randn(shape)
        layers = {'BN': nn.BatchNorm2d(shape[1]), **{kind: NAMES[kind](shape[1]) for kind in NORMS}}
        samples = interleave({kind: step(layer, x, dy) for kind, layer in layers.items()}, options.repeats, device)
        medians = {kind: statistics.median(taken) for kind, taken in samples.items()}
        for kind, column in costs.items():
            column.append(f'{medians[kind] / medians["BN"]:.2f}')
    print(
        '| norm | ' + ' | '.join('x'.join(map(str, shape)) for shape in SHAPES) + ' |\n| --- |' + ' --- |' * len(SHAPES)
    )
    for kind, column in costs.items():
        print(f'| `{kind}` | {" | ".join(column)} |')


if __name__ == '__main__':
    main()
