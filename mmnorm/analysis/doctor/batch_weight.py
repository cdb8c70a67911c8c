"""How much BN counts in SN and EN, at the batch that they train with."""

from collections import defaultdict
from collections.abc import Iterator

from .case import Case, Norm
from .findings import Finding, count_of, name_some

# docs/results.md: at 2 images EN gives BN 0.30 on average over the layers and SN 0.28, at 128 EN 0.72 and SN 0.50.
FEW_IMAGES = 4
HEAVY = 0.5


def bn_weight(norm: Norm) -> float | None:
    """What a norm gives to BN, averaged over samples (SN: over mean and variance); None where it has no choice."""
    if norm.ratios is None or 'BN' not in norm.pool or len(norm.pool) == 1:
        return None
    return float(norm.ratios[:, norm.pool.index('BN')].mean())


def _begun_there(norm: Norm) -> bool:
    """Whether the mix was set next to BN, which finetunes best from weights of a network with BN (docs/results.md)."""
    start = getattr(norm.module, 'init_ratios', None)
    return start is not None and start[norm.pool.index('BN')] > HEAVY


def check_batch_weight(case: Case) -> Iterator[Finding]:
    """Yield a finding where a trained network leans on BN although its batches are small."""
    if not case.trained:
        return
    by_kind: dict[str, list[Norm]] = defaultdict(list)
    for norm in case.learned:
        seen = case.values(norm)
        if bn_weight(norm) is None or _begun_there(norm):
            continue
        if norm.uses_batch and seen is not None and seen[0] <= FEW_IMAGES:
            by_kind[norm.kind].append(norm)
    for kind, norms in by_kind.items():
        weights = {norm.name: bn_weight(norm) or 0 for norm in norms}
        average = sum(weights.values()) / len(weights)
        if average <= HEAVY:
            continue
        names = list(weights)
        images = max((case.values(norm) or (0, 0))[0] for norm in norms)
        pool = tuple(n for n in norms[0].pool if n != 'BN')
        remedies = [case.remedies.norm(names, kind, normalizers=(*pool, 'GN') if 'GN' not in pool else pool)]
        if case.gpus > 1 and not norms[0].is_synchronized:
            remedies.append(case.remedies.norm(names, kind, sync=True))
        largest = sorted(weights, key=lambda name: -weights[name])
        yield Finding(
            check='batch weight',
            title=f'{kind} leans on BN in batches of {count_of(images, "image")}',
            layers=names,
            found=f'BN has {average:.2f} on average over {count_of(len(norms))}, most in '
            + name_some(f'{name} ({weights[name]:.2f})' for name in largest),
            why='At 2 images a batch networks turn from BN by themselves: EN gives it 0.30 and SN 0.28 of the mean '
            'after training from scratch; at 128 images 0.72 and 0.50 (CIFAR-10, one seed each). One that was '
            'trained in larger batches has not yet.',
            remedies=remedies,
            link='docs/choosing.md#what-does',
        )
