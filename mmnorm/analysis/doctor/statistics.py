"""Running statistics against those of the data, and what the difference costs."""

import math
from collections.abc import Iterator, Mapping

import torch

from .case import Case, Norm
from .findings import Finding, count_of, name_some
from .remedies import Remedies
from .values_seen import FEWEST_VALUES

# Half a standard deviation is twice what the mean of a few batches of 2 images is off by chance: with a momentum of 0.1
# a moving average has the noise of 19 batches, a fifth of that of one.
FAR_SHIFT = 0.5
# Of the standard deviations, up or down; that of 16 values is off by 18 %.
FAR_FACTOR = 1.5
# Points of accuracy or mIoU. docs/choosing.md: at most 0.3 on CIFAR-10 and 0.9 on CamVid in runs without a fault.
COSTLY = 1.0

_LINK = 'docs/training.md#batch-average'


def drift(norm: Norm) -> tuple[float, float] | None:
    """How far the running statistics of a norm are from those of the data that it was given, the median channel.

    Returns:
        The distance of the means in standard deviations of the data, and the factor, at least 1, between the standard
        deviations; None where it has no statistics, or has seen too few values.
    """
    mean, var = (getattr(norm.module, name, None) for name in ('running_mean', 'running_var'))
    if mean is None or var is None or norm.mean is None or norm.var is None or norm.count < FEWEST_VALUES:
        return None
    eps = getattr(norm.module, 'eps', 1e-5)
    mean, var, ours = mean.to(norm.mean).cpu(), var.to(norm.var).cpu() + eps, norm.var.cpu() + eps
    shift = (mean - norm.mean.cpu()).abs() / ours.sqrt()
    factor = 0.5 * (var / ours).log().abs()
    return float(shift.median()), math.exp(float(factor.median()))


def is_unset(norm: Norm) -> bool:
    """Whether the running statistics are there and as they were made: mean 0 and variance 1."""
    mean, var = (getattr(norm.module, name, None) for name in ('running_mean', 'running_var'))
    if mean is None or var is None:
        return False
    return not torch.any(mean) and bool(torch.all(var == 1))


def check_statistics(case: Case) -> Iterator[Finding]:
    """Yield findings where a trained network would be tested with statistics that its data do not have."""
    if not (case.trained and case.from_data):
        return
    far: dict[bool, dict[str, tuple[float, float]]] = {True: {}, False: {}}
    for norm in case.norms.values():
        distance = None if is_unset(norm) and not norm.training else drift(norm)
        if distance is not None and (distance[0] > FAR_SHIFT or distance[1] > FAR_FACTOR):
            far[norm.training][norm.name] = distance
    for training, layers in far.items():
        if not layers:
            continue
        order = sorted(layers, key=lambda name: -max(layers[name][0] / FAR_SHIFT, layers[name][1] / FAR_FACTOR))
        seen = (f'{n} (means {layers[n][0]:.2f} s.d. off, s.d. by a factor of {layers[n][1]:.2f})' for n in order)
        with_statistics = [norm for norm in case.norms.values() if drift(norm) is not None]
        if training:
            why = (
                'A test normalizes by statistics that the network no longer has. Where nothing was wrong, statistics '
                'of 200 to 1000 batches changed the accuracy by 0.3 points at most on CIFAR-10 and the mIoU by 0.9 on '
                'CamVid (one seed each); --evaluate 200 measures what it is here.'
            )
            remedies = _average_anew(case.remedies, 200)
        else:
            why = (
                'They are frozen, the network around them learned on or meets other data: neither training nor test '
                'standardizes its maps.'
            )
            remedies = unfreeze(case, list(layers))
        what = 'Running' if training else 'Frozen running'
        yield Finding(
            check='statistics',
            title=f'{what} statistics are not those of the data in {len(layers)} of {count_of(len(with_statistics))}',
            layers=[name for name in case.norms if name in layers],
            found=name_some(seen),
            why=why,
            remedies=remedies,
            link=_LINK,
        )


def _average_anew(lines: Remedies, batches: int) -> list[str]:
    """Lines that take the statistics anew: for this checkpoint, for later runs, in Python."""
    return [
        f'mmnorm test {lines.source} CHECKPOINT --batch-average {batches}',
        *lines.hook('BatchAverageHook', f'mmnorm.update_bn_stats(model, train_loader, num_iters={batches})'),
    ]


def unfreeze(case: Case, names: list[str]) -> list[str]:
    """Lines that let norms train that a backbone's ``norm_eval`` keeps from it."""
    switches = [
        name
        for name, module in case.model.named_modules()
        if getattr(module, 'norm_eval', False) is True and any(n.startswith(f'{name}.' if name else '') for n in names)
    ]
    switches = [name for name in switches if name not in case.norms]
    if not switches:
        return ['model.train()    # and no eval() of these afterwards']
    return [case.remedies.options(**{f'model.{name}.norm_eval': False for name in switches})]


def check_cost(own: Mapping[str, float], anew: Mapping[str, float], batches: int, lines: Remedies) -> list[Finding]:
    """A finding where a test with statistics taken anew is better by far.

    Args:
        own: The metrics with the statistics of the checkpoint.
        anew: Those with a batch average.
        batches: How many batches that is over.
        lines: Writes what to do.
    """
    names = [name for name in own if name in anew and not name.endswith('time')]
    # Some codebases count to 1.
    scale = 1 if max((abs(v) for name in names for v in (own[name], anew[name])), default=0) > 1 else 100
    gains = {name: scale * (anew[name] - own[name]) for name in names}
    if not gains or max(gains.values()) <= COSTLY:
        return []
    found = ', '.join(f'{name} {own[name]:.4g} and {anew[name]:.4g}' for name in names)
    return [
        Finding(
            check='cost of statistics',
            title=f'The running statistics cost {max(gains.values()):.1f} points',
            layers=[],
            found=f'With the statistics of the checkpoint, and with those of {batches} training batches: {found}.',
            why='In runs without a fault the difference was 0.3 points at most on CIFAR-10 and 0.9 on CamVid.',
            remedies=_average_anew(lines, batches),
            link=_LINK,
        )
    ]
