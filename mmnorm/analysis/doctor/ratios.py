"""Ratios that never left their start, and ratios with which a single normalizer is all that counts."""

from collections import defaultdict
from collections.abc import Iterator

from ...convert.starts import next_to
from ...layers.pooled import PooledNorm
from ...layers.sparse_switchable_norm import SparseSwitchableNorm
from .case import Case, Norm
from .findings import Finding, count_of, name_some

# How far a ratio may be from its start and count as stuck. Rounding is 1e-7; four steps at a rate of 0.1 move ratios by
# 3e-6, so one that has been trained for longer is past this.
STUCK = 1e-4
# Iterations before which no ratio is expected to have moved.
FEWEST_ITERATIONS = 100
# Share of one normalizer. The gradient of a softmax is in proportion to p (1 - p): a hundredth and less, a quarter at
# the even start of two.
SATURATED = 0.99

_LINK = 'docs/training.md#decay-and-rate-of-the-parameters'


def moved(norm: Norm) -> float | None:
    """The largest distance of a ratio from its start; None where there is none to move."""
    layer = norm.module
    if norm.ratios is None or not isinstance(layer, PooledNorm) or len(layer.normalizers) == 1:
        return None
    start = layer.init_ratios or [1 / len(layer.normalizers)] * len(layer.normalizers)
    return float((norm.ratios - norm.ratios.new_tensor(start)).abs().max())


def check_stuck(case: Case) -> Iterator[Finding]:
    """Yield a finding for each kind of norm of which every layer has the ratios that it started with."""
    if not case.trained or case.done is not None and case.done < FEWEST_ITERATIONS:
        return
    by_kind: dict[str, dict[str, float]] = defaultdict(dict)
    for norm in case.learned:
        distance = moved(norm)
        if distance is not None and case.trains(norm):
            by_kind[norm.kind][norm.name] = distance
    for kind, distances in by_kind.items():
        if max(distances.values()) >= STUCK:
            continue
        yield Finding(
            check='stuck',
            title=f'{kind}: the ratios are where they started in all of {count_of(len(distances))}',
            layers=list(distances),
            found=f'No ratio is further than {max(distances.values()):.1e} from its start'
            + (f', after {case.done} iterations.' if case.done else '.'),
            why='Ratios that are learned move: after 8,000 iterations at 2 images EN has 0.28 of IN, 0.44 of LN and '
            '0.28 of BN on average (CIFAR-10, one seed). Either their parameters are not trained, or their rate is '
            'too small, or the weights are those of another norm.',
            remedies=[
                case.remedies.options(optim_wrapper__paramwise_cfg__ratio_lr_mult=1),
                case.remedies.options(optim_wrapper__constructor='LearnedNormOptimWrapperConstructor'),
            ],
            link=_LINK,
        )


def check_saturated(case: Case) -> Iterator[Finding]:
    """Yield a finding for each normalizer that is all that counts in layers of a kind, for every sample."""
    grouped: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    total: dict[str, int] = defaultdict(int)
    for norm in case.learned:
        # SSN is made to end there.
        if norm.ratios is None or len(norm.pool) == 1 or isinstance(norm.module, SparseSwitchableNorm):
            continue
        total[norm.kind] += 1
        lowest = norm.ratios.amin(0)
        if lowest.max() > SATURATED:
            grouped[norm.kind, norm.pool[int(lowest.argmax())]][norm.name] = float(lowest.max())
    for (kind, normalizer), layers in grouped.items():
        norms = [case.norms[name] for name in layers]
        begun_there = any(max(getattr(norm.module, 'init_ratios', None) or (0,)) > SATURATED for norm in norms)
        by_start = case.remedies.norm(list(layers), kind, init_ratios=next_to(normalizer, norms[0].pool))
        remedies = [case.remedies.norm(list(layers), kind, normalizers=(normalizer,)), by_start]
        yield Finding(
            check='saturated',
            title=f'{kind}: {normalizer} is all that counts in {len(layers)} of {count_of(total[kind])}',
            layers=list(layers),
            found=name_some(f'{name} ({share:.4f} or more)' for name, share in layers.items())
            + (f'; init_ratios are {norms[0].module.init_ratios}' if begun_there else ''),
            why='The gradient of a softmax is in proportion to p (1 - p), so these ratios hardly move any more, and '
            'the other normalizers cost time for nothing. If it is to be so, a pool of one is the same function; if '
            'not, start less one-sided.',
            remedies=remedies[::-1] if begun_there else remedies,
            link='docs/layers.md#common-arguments-of-sn-ssn-and-en',
        )
