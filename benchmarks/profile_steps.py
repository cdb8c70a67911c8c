"""Where a step of training goes, with BN and with others: convolutions, norms, activations and sums, the rest.

What a norm that cost nothing would bring is the share of all that is neither convolution nor rest.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Sequence

from environment import describe, environment
from networks import import_codebase, make_step, parse_arguments, size_and_batch
from report import Table, duration, number
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

# By a part of an operator's name; the first that fits. Our nodes of autograd are named after their steps.
KINDS = {
    'convolutions': ('conv', 'mkldnn'),
    'norms': ('norm', 'moments', 'affine', 'mixing'),
    'activations and sums': ('relu', 'threshold_backward', 'aten::add'),
    'linear layers': ('mm',),
}
OPTIMIZER, REST = 'optimizer', 'rest'


def kind_of(event: FunctionEvent) -> str:
    above = event
    while above is not None:
        if above.name.startswith('Optimizer.'):
            return OPTIMIZER
        above = above.cpu_parent
    name = event.name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def main(words: Sequence[str] | None = None) -> int:
    options = parse_arguments(words)
    if options.device.type != 'cpu':
        print('profile_steps.py: expected --device cpu; on CUDA use the tools of NVIDIA', file=sys.stderr)
        return 2
    print(describe(environment(options.device)), flush=True)
    for model in options.model:
        import_codebase(model)
        steps = {norm: make_step(model, norm, options) for norm in options.norms}
        times: dict[str, list[Counter]] = {norm: [] for norm in steps}
        longest = Counter()
        for round_ in range(options.steps + 1):
            for norm, step in steps.items():
                with profile(activities=[ProfilerActivity.CPU]) as record:
                    step()
                if round_ == 0:
                    continue
                spent = Counter()
                for event in record.events():
                    kind, seconds = kind_of(event), event.self_cpu_time_total / 1e6
                    spent[kind] += seconds
                    if kind == REST:
                        longest[event.name] += seconds / options.steps / len(steps)
                times[norm].append(spent)
        kinds = [*KINDS, OPTIMIZER, REST]
        medians = {
            norm: [statistics.median(spent[kind] for spent in found) for kind in kinds] for norm, found in times.items()
        }
        rows = [
            [norm, *map(duration, parts), duration(sum(parts)), number(sum(parts) / sum(medians['BN']))]
            for norm, parts in medians.items()
        ]
        size, batch = size_and_batch(model, options)
        title = f'{model}, {batch}x3x{size}x{size}, {options.memory_format}'
        Table(title, ['norm', *kinds, 'sum', '/ BN'], [('', rows)]).print()
        print('of the rest: ' + ', '.join(f'{name} {duration(seconds)}' for name, seconds in longest.most_common(3)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
