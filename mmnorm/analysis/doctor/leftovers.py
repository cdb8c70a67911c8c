"""SyncBN where there is nothing to synchronize, and plain BN beside learned norms."""

from collections.abc import Iterator

from ...convert.sources import obstacle
from .case import Case, Norm
from .findings import Finding, count_of, name_some


def check_leftovers(case: Case) -> Iterator[Finding]:
    """Yield a finding for each of the two."""
    synced = [norm for norm in case.norms.values() if norm.is_synchronized and norm.training]
    if case.gpus == 1 and synced:
        yield _alone(case, synced)
    if case.learned:
        left = [norm for norm in case.norms.values() if norm.kind in ('BN', 'SyncBN') and _is_left(case, norm)]
        if left:
            yield _left(case, left)


def _is_left(case: Case, norm: Norm) -> bool:
    """Whether it trains beside learned norms. Frozen BN in a backbone is what many detectors are made with."""
    wanted = case.scope is None or any(f'{norm.name}.'.startswith(f'{prefix}.') for prefix in case.scope)
    return norm.training and case.trains(norm) and wanted


def _alone(case: Case, norms: list[Norm]) -> Finding:
    names = [norm.name for norm in norms]
    plain = [norm.name for norm in norms if norm.learned is None]
    remedies = []
    if plain:
        remedies.append(case.remedies.norm(plain, 'BN'))
    ours = {norm.kind: [n.name for n in norms if n.kind == norm.kind] for norm in norms if norm.learned is not None}
    remedies += [case.remedies.norm(layers, kind, sync=False) for kind, layers in ours.items()]
    remedies.append('--gpus N    # of mmnorm train, and here, if it is to run in several processes')
    return Finding(
        check='leftovers',
        title=f'{count_of(len(names))} synchronized, and there is one process',
        layers=names,
        found=name_some(f'{norm.name} ({norm.kind})' for norm in norms),
        why='In one process SyncBN is BN, and its statistics are those of the images of one process: in a config for 8 '
        'GPUs an eighth of what it was written for.',
        remedies=remedies,
        link='docs/training.md#statistics-over-all-processes',
    )


def _left(case: Case, norms: list[Norm]) -> Finding:
    names = [norm.name for norm in norms]
    kinds = [norm.kind for norm in case.learned]
    kind = max(set(kinds), key=kinds.count)
    reasons = {norm.name: obstacle(norm.module, named=False) for norm in norms}
    seen = name_some(f'{name} ({reason})' if reason else name for name, reason in reasons.items())
    return Finding(
        check='leftovers',
        title=f'{count_of(len(names), norms[0].kind + " layer")} left beside {count_of(len(kinds), kind + " layer")}',
        layers=names,
        found=seen,
        why=f'They train by statistics of the batch, as if there were no {kind}: a norm_cfg that reaches one part of '
        'the network, a layer that names BN itself, or one that could not be replaced.',
        remedies=[f'--norm {kind}', f"mmnorm.convert_norm(model, '{kind}')"],
        link='docs/converting.md',
    )
