"""Norms that take their statistics from too few values: images x positions on the real sizes."""

from collections import defaultdict
from collections.abc import Iterator

from ...layers.pooled import PooledNorm
from .case import Case, Norm
from .findings import Finding, count_of, name_some

# BN. The standard deviation of n independent values is off by 1 / sqrt(2 (n - 1)): by 18 % at 16. DeepLabV3 (arXiv
# 1706.05587) trains BN with 16 images, so its image pooling has 16 values.
FEWEST_VALUES = 16


def starved(case: Case, norm: Norm) -> dict[str, int]:
    """The normalizers of a norm that have too few values, and how many values they have."""
    seen = case.values(norm)
    if seen is None:
        return {}
    images, positions = seen
    channels = getattr(norm.module, 'num_features', None) or getattr(norm.module, 'num_channels', None) or 0
    few = {}
    for normalizer in norm.pool:
        if normalizer == 'BN':
            if norm.uses_batch and images * positions < FEWEST_VALUES:
                few['BN'] = images * positions
        elif normalizer in ('IN', 'GN'):
            # As in training, so in the test: noise, but no gap. A single value has no variance, and nothing is left.
            groups = norm.module.num_groups if normalizer == 'GN' else channels
            if positions * channels == groups:
                few[normalizer] = 1
    return few


def check_values(case: Case) -> Iterator[Finding]:
    """Yield a finding for each kind of norm that has too few, the same normalizers at a time."""
    grouped: dict[tuple, list[Norm]] = defaultdict(list)
    for norm in case.norms.values():
        few = starved(case, norm)
        if few:
            grouped[norm.kind, tuple(few)].append(norm)
    for (kind, normalizers), norms in grouped.items():
        yield _finding(case, kind, normalizers, norms)


def _finding(case: Case, kind: str, normalizers: tuple[str, ...], norms: list[Norm]) -> Finding:
    names = [norm.name for norm in norms]
    seen = []
    for norm in norms:
        images, positions = case.values(norm) or (0, 0)
        few = ', '.join(f'{name} {number}' for name, number in starved(case, norm).items())
        seen.append(f'{norm.name} ({count_of(images, "image")} x {count_of(positions, "position")}: {few})')
    why = []
    if 'BN' in normalizers:
        why.append(
            f'The standard deviation of n values is off by 1 / sqrt(2 (n - 1)), 18 % at {FEWEST_VALUES}, and a test '
            f'normalizes by running statistics instead. Tested by the statistics of batches of 2 images, of many more '
            f'values than here, BN loses 5 points (CIFAR-10, one seed).'
        )
        if any(starved(case, norm).get('BN') == 1 for norm in norms):
            error = ' nn.BatchNorm refuses it.' if kind in ('BN', 'SyncBN') else ''
            why.append(f'Of one value a channel there is no variance at all: what BN makes of it is constant.{error}')
    if set(normalizers) & {'IN', 'GN'}:
        alone = ' and '.join(n for n in normalizers if n != 'BN')
        why.append(f'{alone} of a single value is the same for every input: beta.')
    return Finding(
        check='values',
        title=f'{kind}: too few values for {" and ".join(normalizers)} in {count_of(len(norms))}',
        layers=names,
        found=name_some(seen),
        why=' '.join(why),
        remedies=_remedies(case, kind, normalizers, norms),
        link='docs/results.md#longer-runs-one-seed',
    )


def _remedies(case: Case, kind: str, normalizers: tuple[str, ...], norms: list[Norm]) -> list[str]:
    names, remedies = [norm.name for norm in norms], []
    pooled = isinstance(norms[0].module, PooledNorm)
    to = kind if pooled else 'EN' if kind in ('BN', 'SyncBN') else 'GN'
    # Groups of GN, where the layers have no number of their own yet.
    channels = min(getattr(n.module, 'num_features', getattr(n.module, 'num_channels', 0)) for n in norms)
    if pooled or kind in ('BN', 'SyncBN'):
        has_groups = all(getattr(norm.module, 'num_features', 0) > 32 for norm in norms)
        pool = ('LN', 'GN') if has_groups else ('LN',)
        remedies.append(case.remedies.norm(names, to, normalizers=pool))
    elif kind == 'GN' or kind == 'IN':
        remedies.append(case.remedies.norm(names, 'GN', num_groups=max(1, channels // 16)))
    if 'BN' in normalizers and len(normalizers) == 1:
        few = min(starved(case, norm)['BN'] for norm in norms)
        if pooled and case.gpus > 1 and few * case.gpus >= FEWEST_VALUES:
            remedies.append(case.remedies.norm(names, kind, sync=True))
        images = -(-FEWEST_VALUES // max(1, min((case.values(n) or (1, 1))[1] for n in norms)))
        remedies.append(case.remedies.options(train_dataloader__batch_size=images) + '    # or as many as fit')
    return remedies
