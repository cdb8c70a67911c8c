"""Layers in eval mode that should train, or the other way round."""

from collections.abc import Iterator

from .case import Case, Norm
from .findings import Finding, count_of, name_some
from .statistics import is_unset, unfreeze

_LINK = 'docs/training.md#norm_eval-and-frozen-stages'


def check_modes(case: Case) -> Iterator[Finding]:
    """Yield a finding for norms that standardize by nothing, that norm_eval does not reach, that frozen stages move."""
    yield from _unset(case)
    yield from _passed_by(case)
    yield from _moving(case)


def _unset(case: Case) -> Iterator[Finding]:
    """Eval mode, by statistics that were never set, in a part that learns."""
    names = [
        norm.name
        for norm in case.norms.values()
        if 'BN' in norm.pool
        and not norm.training
        and is_unset(norm)
        and case.trains(norm)
        and not any(norm.name.startswith(prefix) for prefix in case.will_load)
    ]
    if names:
        yield Finding(
            check='modes',
            title=f'{count_of(len(names))} in eval mode whose running statistics were never set',
            layers=names,
            found=name_some(names) + ': mean 0 and variance 1, in a part that learns.',
            why='BN normalizes by 0 and 1, that is by nothing, in training too. norm_eval and frozen BN are for '
            'weights that have statistics: a checkpoint to start from.',
            remedies=[*unfreeze(case, names), '--cfg-options load_from=CHECKPOINT'],
            link=_LINK,
        )


def _passed_by(case: Case) -> Iterator[Finding]:
    """norm_eval is set, and does not reach the learned norms below."""
    switches = [
        name
        for name, module in case.model.named_modules()
        if name not in case.norms and getattr(module, 'norm_eval', False) is True
    ]
    names = [
        norm.name
        for norm in case.learned
        if norm.training
        and getattr(norm.module, 'running_mean', None) is not None
        and any(norm.name.startswith(f'{name}.' if name else '') for name in switches)
    ]
    if names:
        yield Finding(
            check='modes',
            title=f'norm_eval=True does not reach {count_of(len(names), "learned norm")}',
            layers=names,
            found=f'{name_some(names)} train below {name_some(switches) or "the model"}, which has norm_eval=True.',
            why="OpenMMLab's backbones look for PyTorch's BatchNorm only. Runs of mmnorm train have a hook for it.",
            remedies=case.remedies.hook('NormEvalHook', 'mmnorm.apply_norm_eval(model)'),
            link=_LINK,
        )


def _moving(case: Case) -> Iterator[Finding]:
    """Frozen parts whose norms still take in statistics."""
    names = [norm.name for norm in case.norms.values() if _is_moving(norm) and not case.trains(norm)]
    if not names:
        return
    parts = {name.split('.')[0] for name in names}
    frozen = [f'model.{part}.norm_eval' for part in parts if hasattr(case.model.get_submodule(part), 'norm_eval')]
    remedies = [case.remedies.options(**dict.fromkeys(sorted(frozen), True))] if frozen else []
    yield Finding(
        check='modes',
        title=f'{count_of(len(names))} in frozen parts still update their running statistics',
        layers=names,
        found=f'{name_some(names)}: every parameter is frozen, and training mode is on.',
        why='What was frozen changes all the same: in training it normalizes by each batch, in the test by a moving '
        'average of it. A frozen part is meant to compute what its checkpoint did.',
        remedies=[*remedies, f'model.get_submodule({names[0]!r}).eval()    # and so on, after each model.train()'],
        link=_LINK,
    )


def _is_moving(norm: Norm) -> bool:
    tracks = getattr(norm.module, 'running_mean', None) is not None and norm.module.track_running_stats
    return bool(tracks) and norm.training and not any(p.requires_grad for p in norm.module.parameters())
