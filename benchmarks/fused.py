"""Times norms with what follows them, ReLU or residual sum and ReLU, in one pass and not, beside BatchNorm with the same."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import arguments
import torch
from environment import describe, environment, load
from layers import OURS
from memory import reuse_freed_memory
from report import Table, duration, number, save
from shapes import Shape, expand, parse_shape
from torch import nn

from mmnorm.timing import geometric_mean, interleave

FOLLOWED = ('ReLU', 'sum, ReLU')
FUSED = ' fused'


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.Parser(description=__doc__)
    formats = list(arguments.MEMORY_FORMATS)
    parser.add_argument('--shapes', nargs='+', type=parse_shape, metavar='SHAPE', default=['targets'])
    parser.add_argument('--layers', nargs='+', choices=list(OURS), default=['SN', 'EN', 'ILM'])
    parser.add_argument('--memory-format', nargs='+', choices=formats, default=formats, help='one or both (default)')
    parser.add_argument('--dtype', choices=list(arguments.DTYPES), default='float32')
    parser.add_argument(
        '--device', type=arguments.device, default=arguments.default_device(), help='cpu or cuda (default: cuda if any)'
    )
    parser.add_argument('--reuse-memory', action='store_true', help='on a CPU: no time goes to page faults')
    parser.add_argument('--repeats', type=arguments.positive, metavar='N', default=10, help='samples (%(default)s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder (%(default)s)')
    options = parser.parse_args(words)
    options.shapes = expand(options.shapes, None)
    return options


class Followed(nn.Module):
    """A norm, in place ReLU, and before it where asked for the sum, as blocks of networks have them."""

    def __init__(self, norm: nn.Module, with_sum: bool, fused: bool) -> None:
        super().__init__()
        self.norm, self.with_sum, self.fused = norm, with_sum, fused

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if self.fused:
            return self.norm(x, other) if self.with_sum else self.norm(x)
        y = self.norm(x)
        if self.with_sum:
            y += other
        return torch.relu_(y)


def measure(shape: Shape, memory_format: str, options: argparse.Namespace) -> list[dict]:
    """Forward and backward of each, in turns."""
    make = {'device': options.device, 'dtype': arguments.DTYPES[options.dtype]}
    as_format = {'memory_format': arguments.MEMORY_FORMATS[memory_format]}
    x, other = (torch.randn(shape, **make).contiguous(**as_format).requires_grad_() for _ in range(2))
    dy = torch.randn(shape, **make).contiguous(**as_format)
    results = []
    for followed in FOLLOWED:
        with_sum = followed != 'ReLU'
        inputs = [x, other] if with_sum else [x]
        steps = {}
        for name in ('BN', *(f'{layer}{fused}' for layer in options.layers for fused in ('', FUSED))):
            kind, fused = name.removesuffix(FUSED), name.endswith(FUSED)
            norm = nn.BatchNorm2d(shape[1]) if kind == 'BN' else OURS[kind](shape[1])
            if fused:
                norm.activation = 'relu'
            module = Followed(norm, with_sum, fused).to(options.device)
            leaves = [*inputs, *module.parameters()]
            steps[name] = lambda module=module, leaves=leaves: torch.autograd.grad(module(x, other), leaves, dy)
        samples = interleave(steps, options.repeats, options.device)
        times = {name: statistics.median(values) for name, values in samples.items()}
        for name, seconds in times.items():
            result = {'shape': list(shape), 'memory_format': memory_format, 'followed by': followed, 'layer': name}
            results.append(result | {'seconds': seconds, '/ BN': seconds / times['BN']})
    return results


def table(results: list[dict], memory_format: str, options: argparse.Namespace) -> Table:
    groups = []
    for followed in FOLLOWED:
        rows = []
        chosen = [r for r in results if r['memory_format'] == memory_format and r['followed by'] == followed]
        for name in dict.fromkeys(r['layer'] for r in chosen):
            of_layer = [r for r in chosen if r['layer'] == name]
            ratios = [r['/ BN'] for r in of_layer]
            cells = [f'{duration(r["seconds"])} {number(r["/ BN"])}' for r in of_layer]
            rows.append([name, *cells, number(geometric_mean(ratios))])
        groups.append((followed, rows))
    names = ['x'.join(map(str, shape)) for shape in options.shapes]
    title = f'forward and backward, {options.dtype}, {memory_format}: time, ratio to BN'
    return Table(title, ['', *names, 'mean'], groups)


def main(words: Sequence[str] | None = None) -> int:
    options = parse_arguments(words)
    if options.reuse_memory and options.device.type == 'cpu':
        reuse_freed_memory()
    facts = environment(options.device)
    print(describe(facts), flush=True)
    results, made = [], []
    for memory_format in options.memory_format:
        for shape in options.shapes:
            results += measure(shape, memory_format, options)
        made.append(table(results, memory_format, options))
        made[-1].print()
    facts['load at the end'] = load()
    save(options.out, 'fused', {'environment': facts, 'results': results}, results, made)
    print(f'saved {options.out}/fused.json, .csv and .md; load at the end {facts["load at the end"]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
