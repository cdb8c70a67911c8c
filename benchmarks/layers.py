"""Times SN, SSN, EN and ILM beside BN, GN, the papers' formulas written out, and what moving the bytes alone takes."""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import arguments
import torch
from environment import describe, environment, load
from memory import reuse_freed_memory, step_memory
from plain import PlainNorm
from plots import draw_layers
from report import Table, duration, number, save
from shapes import SETS, Shape, expand, parse_shape
from torch import nn
from torch.nn import functional

from mmnorm.registry import NAMES, NORMS
from mmnorm.timing import geometric_mean, interleave

OURS = ['SN', 'SSN', 'EN', 'ILM']
PLAIN = [f'{name}-plain' for name in OURS]
COMPILED = [f'{name}-compiled' for name in OURS]
# Asked for by name.
BEYOND = [kind for kind in NORMS if kind not in OURS]
LAYERS = ['BN', 'GN', *OURS, *BEYOND, *PLAIN, *COMPILED]
# The goals of the project for float32 on a CPU.
GOALS = {'SN': 0.60, 'EN': 0.70, 'ILM': 0.60}

FLOOR = 'floor'
# Times that x is read or written: forward for the moments, then for the output; backward dy and x for the sums, then
# both and dx. A copy is two.
FLOOR_PASSES = {'forward': 3, 'backward': 5, 'forward+backward': 8}
# With a sum, the residual is read too, and its gradient written.
SUM_FLOOR_PASSES = {'forward': 4, 'backward': 6, 'forward+backward': 10}
TIMES = tuple(FLOOR_PASSES)
# What follows the norm: in a pass of it where the layer is ours, in operators of their own elsewhere.
THEN = ('nothing', 'relu', 'sum-relu')
BYTES = ('kept', 'peak')


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.Parser(description=__doc__)
    parser.add_argument(
        '--shapes', nargs='+', type=parse_shape, metavar='SHAPE',
        help=f'any of {", ".join(SETS)}, NxCxHxW and NxCxDxHxW (default: targets on a CPU, else resnet50 and deeplab)',
    )  # fmt: skip
    parser.add_argument(
        '--batch', type=arguments.positive, metavar='N', help='images a batch in resnet50 (default 8), deeplab (2)'
    )
    parser.add_argument(
        '--device', type=arguments.device, default=arguments.default_device(), help='cpu or cuda (default: cuda if any)'
    )
    formats = list(arguments.MEMORY_FORMATS)
    parser.add_argument('--memory-format', nargs='+', choices=formats, default=formats, help='one or both (default)')
    parser.add_argument(
        '--dtype', nargs='+', choices=list(arguments.DTYPES), help='default: float32 on a CPU, all on CUDA'
    )
    parser.add_argument(
        '--layers', nargs='+', choices=LAYERS, metavar='LAYER',
        help=f'any of {", ".join(LAYERS)}; BN always (default: all but the compiled)',
    )  # fmt: skip
    parser.add_argument(
        '--then', nargs='+', choices=THEN, default=['nothing'],
        help='what follows the norm: nothing (default), relu, sum-relu with a residual',
    )  # fmt: skip
    parser.add_argument(
        '--compile', action='store_true', help='the formulas under torch.compile too, which takes minutes on a CPU'
    )
    parser.add_argument(
        '--reuse-memory', action='store_true', help='on a CPU: keep freed memory, so that no time goes to page faults'
    )
    parser.add_argument(
        '--repeats', type=arguments.positive, metavar='N', help='samples a time (default: 10 on a CPU, 30 on CUDA)'
    )
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder of layers.* (%(default)s)'
    )
    parser.add_argument(
        '--at-most', nargs='+', type=arguments.limit, metavar='LAYER=RATIO', default=[],
        help="exit with 1 if the geometric mean of a layer's forward+backward time exceeds that share of BN's",
    )  # fmt: skip
    goals = ' '.join(f'{name}={ratio:.2f}' for name, ratio in GOALS.items())
    parser.add_argument('--check', action='store_true', help=f"--at-most with the project's goals on a CPU, {goals}")
    options = parser.parse_args(words)

    on_cpu = options.device.type == 'cpu'
    names = options.shapes or (['targets'] if on_cpu else ['resnet50', 'deeplab'])
    if options.batch and not {'resnet50', 'deeplab'}.intersection(names):
        parser.error('argument --batch: only the shapes resnet50 and deeplab have a batch to choose')
    options.shapes = expand(names, options.batch)
    options.dtype = options.dtype or (['float32'] if on_cpu else list(arguments.DTYPES))
    options.repeats = options.repeats or (10 if on_cpu else 30)
    asked = {'BN', *(options.layers or ['BN', 'GN', *OURS, *PLAIN]), *(COMPILED if options.compile else [])}
    options.layers = [name for name in LAYERS if name in asked]
    options.at_most = dict(options.at_most)
    if options.check and not options.at_most:
        options.at_most = {name: ratio for name, ratio in GOALS.items() if name in options.layers}
    arguments.check_limits(options.at_most, options.layers, parser)
    return options


def build(name: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The layer of a name of LAYERS for input of a shape, in training mode."""
    channels, rank = shape[1], len(shape) - 2
    if name == 'BN':
        return (nn.BatchNorm3d if rank == 3 else nn.BatchNorm2d)(channels, device=device)
    if name == 'GN':
        # It takes no float32 parameters with half-precision input on CUDA.
        return nn.GroupNorm(math.gcd(32, channels), channels, device=device, dtype=dtype)
    kind, _, variant = name.partition('-')
    if not variant:
        return NAMES[f'{kind}{rank}d'](channels, device=device)
    plain = build_plain(name, shape, device)
    return torch.compile(plain, dynamic=False) if variant == 'compiled' else plain


def build_plain(name: str, shape: Shape, device: torch.device) -> PlainNorm:
    return PlainNorm(NAMES[f'{name.partition("-")[0]}{len(shape) - 2}d'](shape[1], device=device))


class Followed(nn.Module):
    """A norm, then a residual if it is given one, then ReLU, each an operator of its own."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor, *residual: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        for other in residual:
            y += other
        return functional.relu(y, inplace=True)


def build_followed(name: str, then: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The layer, and what of THEN follows it, which takes x and the residuals."""
    module = build(name, shape, device, dtype)
    if then == 'nothing':
        return module
    if name in NORMS:
        module.activation = 'relu'
        return module
    return (
        torch.compile(Followed(build_plain(name, shape, device)), dynamic=False)
        if name in COMPILED
        else Followed(module)
    )


def measure(
    shape: Shape, memory_format: str, dtype: str, layers: list[str], repeats: int, device: torch.device, then: str
) -> list[dict]:
    """Times and bytes of all layers at one shape, and of the floor."""
    torch.manual_seed(0)
    if any(name in COMPILED for name in layers):
        torch._dynamo.reset()
    like = {'device': device, 'dtype': arguments.DTYPES[dtype]}
    as_format = {'memory_format': arguments.memory_format(memory_format, len(shape))}
    x = torch.randn(shape, **like).contiguous(**as_format).requires_grad_()
    dy = torch.randn(shape, **like).contiguous(**as_format)
    copy = torch.empty_like(dy)
    modules = {name: build_followed(name, then, shape, **like) for name in layers}
    residuals = [torch.randn_like(x).requires_grad_()] if then == 'sum-relu' else []

    def forward_backward(module):
        return torch.autograd.grad(module(x, *residuals), [x, *residuals, *module.parameters()], dy)

    def calls_of(names):
        calls = {}
        for name in names:
            calls[name, 'forward'] = partial(modules[name], x, *residuals)
            calls[name, 'forward+backward'] = partial(forward_backward, modules[name])
        return calls

    # The formulas take and release many tensors, which upsets allocator and caches for whatever comes next: they have
    # rounds of their own, with BN once more to compare to.
    formulas = [name for name in layers if name in (*PLAIN, *COMPILED)]
    others = [name for name in layers if name not in formulas]
    samples = interleave({**calls_of(others), (FLOOR, 'copy'): lambda: copy.copy_(dy)}, repeats, device)
    bn = times('BN', samples)
    formula_samples = interleave(calls_of(['BN', *formulas]), repeats, device) if formulas else {}
    results = []
    for name, module in modules.items():
        taken = formula_samples if name in formulas else samples
        result = times(name, taken)
        result |= relative(result, times('BN', formula_samples) if name in formulas else bn)
        leaves = [*residuals, *module.parameters()]
        result['kept'], result['peak'] = step_memory(lambda x: module(x, *residuals), x, dy, leaves)  # noqa: B023
        result['samples'] = {key[1]: value for key, value in taken.items() if key[0] == name}
        if name in formulas:
            result['samples'] |= {f'BN {key[1]}': value for key, value in taken.items() if key[0] == 'BN'}
        results.append({'layer': name, **result})
    a_pass = statistics.median(samples[FLOOR, 'copy']) / 2
    passes_of = SUM_FLOOR_PASSES if residuals else FLOOR_PASSES
    floor = {time: passes * a_pass for time, passes in passes_of.items()}
    floor |= relative(floor, bn)
    # The output and the gradients of input and residual.
    sizes = {'kept': 0, 'peak': (2 + len(residuals)) * x.nbytes}
    results.append({'layer': FLOOR, **floor, **sizes, 'samples': {'copy': samples[FLOOR, 'copy']}})

    common = {'memory_format': memory_format, 'dtype': dtype, 'then': then, 'shape': 'x'.join(map(str, shape))}
    for result in results:
        result['input'] = x.nbytes
        result |= {f'{size} / input': result[size] / x.nbytes for size in BYTES}
    return [{**common, **result} for result in results]


def times(name: str, samples: dict[tuple[str, str], list[float]]) -> dict[str, float]:
    """Medians in seconds, of a layer."""
    forward, both = (statistics.median(samples[name, time]) for time in ('forward', 'forward+backward'))
    return {'forward': forward, 'backward': both - forward, 'forward+backward': both}


def relative(seconds: dict[str, float], bn: dict[str, float]) -> dict[str, float]:
    """Times relative to those of BN."""
    return {f'{time} / BN': seconds[time] / bn[time] if bn[time] > 0 else math.nan for time in TIMES}


def group_of(result: dict) -> tuple[str, str, str]:
    """What one table holds."""
    return result['memory_format'], result['dtype'], result['then']


def describe_group(group: tuple[str, str, str]) -> str:
    """Memory format and type, and what follows the norm if anything does."""
    *kind, then = group
    return ', '.join([*kind, *([] if then == 'nothing' else [f'with {then}'])])


def summarize(results: list[dict]) -> list[dict]:
    """Means over the shapes for each layer in each group of memory format and type."""
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        groups.setdefault((*group_of(result), result['layer']), []).append(result)
    means = []
    for (memory_format, dtype, then, layer), group in groups.items():
        mean = {'memory_format': memory_format, 'dtype': dtype, 'then': then, 'shape': 'geometric mean', 'layer': layer}
        for key in [*TIMES, *(f'{time} / BN' for time in TIMES)]:
            mean[key] = geometric_mean([result[key] for result in group])
        # Some layers keep nothing, so that there is no geometric mean.
        mean |= {f'{size} / input': statistics.mean(result[f'{size} / input'] for result in group) for size in BYTES}
        means.append(mean)
    return means


def tables(results: list[dict], means: list[dict]) -> list[Table]:
    """One table a memory format and type: a section a quantity, a row a shape, a column a layer."""
    groups: dict[tuple, dict[str, dict[str, dict]]] = {}
    for result in [*results, *means]:
        rows = groups.setdefault(group_of(result), {})
        rows.setdefault(result['shape'], {})[result['layer']] = result
    made = []
    for group, rows in groups.items():
        layers = list(next(iter(rows.values())))
        table = Table(f'{describe_group(group)}: time relative to BN', ['', *layers])
        for time in TIMES:
            lines = [
                [shape]
                + [duration(row['BN'][time])]
                + [number(row[layer][f'{time} / BN']) for layer in layers if layer != 'BN']
                for shape, row in rows.items()
            ]
            table.sections.append((time, lines))
        made.append(table)
        table = Table(f'{describe_group(group)}: memory relative to the input', ['', *layers])
        titles = {'kept': 'kept for the backward, beside input and output', 'peak': 'peak, with output and gradients'}
        for size, title in titles.items():
            lines = [
                [shape if shape != 'geometric mean' else 'mean', *(number(row[x][f'{size} / input']) for x in layers)]
                for shape, row in rows.items()
            ]
            table.sections.append((title, lines))
        made.append(table)
    return made


def without_nan(content):
    """``content`` with None where there is no number; JSON knows no NaN."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def main(words: Sequence[str] | None = None) -> int:
    options = parse_arguments(words)
    facts = environment(options.device)
    facts['freed memory is kept'] = options.reuse_memory and reuse_freed_memory()
    print(describe(facts), flush=True)
    results = []
    for dtype in options.dtype:
        for memory_format in options.memory_format:
            for shape in options.shapes:
                for then in options.then:
                    group = describe_group((memory_format, dtype, then))
                    print(f'{group}, {"x".join(map(str, shape))} ...', file=sys.stderr, flush=True)
                    results += measure(
                        shape, memory_format, dtype, options.layers, options.repeats, options.device, then
                    )
    facts['load at the end'] = load()
    means = summarize(results)

    made = tables(results, means)
    for table in made:
        table.print()
    content = {'environment': facts, 'repeats': options.repeats, 'results': results, 'geometric_means': means}
    units = {**dict.fromkeys(TIMES, ' (s)'), **dict.fromkeys((*BYTES, 'input'), ' (bytes)')}
    rows = [{f'{k}{units.get(k, "")}': v for k, v in result.items() if k != 'samples'} for result in results]
    save(options.out, 'layers', without_nan(content), rows, made)
    try:
        draw_layers(results, means, describe(facts), options.out / 'layers.png')
    except ModuleNotFoundError as error:
        print(f'no figure: {error}', file=sys.stderr)
    print(f'saved {options.out}/layers.json, .csv, .md and .png; load at the end {facts["load at the end"]}')

    missed = []
    for dtype in options.dtype:
        for memory_format in options.memory_format:
            for then in options.then:
                group = memory_format, dtype, then
                ratios = {mean['layer']: mean['forward+backward / BN'] for mean in means if group_of(mean) == group}
                missed += arguments.missed_limits(options.at_most, ratios, describe_group(group))
    for line in missed:
        print(line, file=sys.stderr)
    if options.at_most and not missed:
        print('all that --at-most asks is met')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
