"""Where a step of training goes, with BN and with others: convolutions, norms, activations and sums, the rest.

What norms, activations and sums take of BN's step is what a norm that cost nothing would save.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

from environment import describe, environment
from memory import ONE_CYCLE, reuse_freed_memory
from networks import import_codebase, make_step, parse_arguments, size_and_batch
from report import Table, duration, number
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from mmnorm.layers.base import LearnedNorm

# By a part of an operator's name; the first that fits. Our nodes of autograd are in the namespace mmnorm.
KINDS = {
    'convolutions': ('conv', 'mkldnn'),
    'norms': ('norm',),
    'activations and sums': ('relu', 'threshold_backward', 'aten::add'),
    'linear layers': ('mm',),
}
OPTIMIZER, REST = 'optimizer', 'rest'
# What lies in these is theirs, whatever it is called.
WITHIN = {'Optimizer.': OPTIMIZER, 'learned norm': 'norms'}


def kind_of(event: FunctionEvent) -> str:
    above = event
    while above is not None:
        for name, kind in WITHIN.items():
            if above.name.startswith(name):
                return kind
        above = above.cpu_parent
    name = event.name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def spent_in(step: Callable[[], object]) -> tuple[Counter[str], Counter[str]]:
    """Seconds of a step by kind, which add up to its time, and those of the rest by operator.

    What no operator has, Python above all, is in the rest.
    """
    call = LearnedNorm.__call__

    def recorded(layer, *args, **kwargs):
        # The forward of the compiled loops is no operator of PyTorch's, and not in a profile by itself.
        with record_function('learned norm'):
            return call(layer, *args, **kwargs)

    LearnedNorm.__call__ = recorded
    try:
        with profile(activities=[ProfilerActivity.CPU], **ONE_CYCLE) as record:
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
    finally:
        del LearnedNorm.__call__
    kinds, rest = Counter(), Counter()
    for event in record.events():
        kind, own = kind_of(event), event.self_cpu_time_total / 1e6
        kinds[kind] += own
        if kind == REST:
            rest[event.name] += own
    kinds[REST] += seconds - kinds.total()
    return kinds, rest


def main(words: Sequence[str] | None = None) -> int:
    options = parse_arguments(words)
    if options.device.type != 'cpu':
        print('profile_steps.py: expected --device cpu; on CUDA use the tools of NVIDIA', file=sys.stderr)
        return 2
    print(describe(environment(options.device)), flush=True)
    # Else what asks for new memory, convolutions mostly, has in it what the system takes for the pages.
    reuse_freed_memory()
    for model in options.model:
        import_codebase(model)
        steps = {norm: make_step(model, norm, options) for norm in options.norms}
        for step in steps.values():
            step()
        rounds = [{norm: spent_in(step) for norm, step in steps.items()} for _ in range(options.steps)]
        kinds = [*KINDS, OPTIMIZER, REST]
        medians = {
            norm: [statistics.median(each[norm][0][kind] for each in rounds) for kind in kinds] for norm in steps
        }
        rows = [
            [norm, *map(duration, parts), duration(sum(parts)), number(sum(parts) / sum(medians['BN']))]
            for norm, parts in medians.items()
        ]
        size, batch = size_and_batch(model, options)
        title = f'{model}, {batch}x3x{size}x{size}, {options.memory_format}'
        Table(title, ['norm', *kinds, 'sum', '/ BN'], [('', rows)]).print()
        longest = sum((rest for each in rounds for _, rest in each.values()), Counter()).most_common(3)
        runs = len(rounds) * len(steps)
        print('of the rest: ' + ', '.join(f'{name} {duration(seconds / runs)}' for name, seconds in longest))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
