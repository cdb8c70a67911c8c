"""What decides the ratios and does not learn: no gradient, no place in the optimizer, a rate of 0."""

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from .case import Case, Norm
from .findings import Finding, count_of, name_some

_LINK = 'docs/training.md#decay-and-rate-of-the-parameters'


def check_gradients(case: Case) -> Iterator[Finding]:
    """Yield a finding for each reason for which parameters of ratios do not learn while what is around them does."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for norm in case.learned:
        if not case.trains(norm):
            continue
        for reason, name in _reasons(case, norm):
            found[norm.kind, reason][norm.name].append(name)
    for (kind, reason), layers in found.items():
        title, why, remedies = _advice(case, reason, list(layers))
        yield Finding(
            check='gradients',
            title=f'{kind}: {title} in {count_of(len(layers))}',
            layers=list(layers),
            found=name_some(f'{layer} ({", ".join(names)})' for layer, names in layers.items()),
            why=why,
            remedies=remedies,
            link=_LINK,
        )


def _reasons(case: Case, norm: Norm) -> Iterator[tuple[str, str]]:
    """Why a parameter does not learn, and its name, once a parameter."""
    parameters = norm.ratio_parameters
    rest = dict(parameters)
    for name, parameter in parameters.items():
        settings = case.settings(parameter)
        if not parameter.requires_grad:
            yield 'frozen', name
        elif case.groups is not None and settings is None:
            yield 'left out', name
        elif settings is not None and settings.get('initial_lr', settings.get('lr')) == 0:
            yield 'no rate', name
        else:
            continue
        del rest[name]
    if not rest or not norm.calls or not _learns_otherwise(norm):
        return
    zero = [name for name in rest if not norm.gradients.get(name)]
    if len(zero) == len(rest):
        # The first step of a net whose last layer is zero reaches that layer alone, so only all of them are a fault.
        if not _is_one_hot(norm):
            yield from (('no gradient', name) for name in zero)
    else:
        # Factors that are all zero, with a gradient of zero, have each other as their gradient.
        yield from (
            ('dead', name) for name in zero if not name.endswith('bias') and not torch.any(rest[name]) and name in rest
        )


def _learns_otherwise(norm: Norm) -> bool:
    """Whether gamma is there, and learns: else no gradient comes as far as this layer, or leaves it at the ratios."""
    gamma = norm.module.weight
    if not isinstance(gamma, Tensor):
        return True
    return bool(torch.any(gamma)) and bool(norm.gradients.get('weight')) or not gamma.requires_grad


def _is_one_hot(norm: Norm) -> bool:
    """Whether a single normalizer has everything, which SSN is made for, and :mod:`.ratios` says of others."""
    return norm.ratios is not None and bool((norm.ratios.amin(0) == 1).any())


def _advice(case: Case, reason: str, layers: list[str]) -> tuple[str, str, list[str]]:
    """Title, why, and what to write."""
    constructor = case.remedies.options(optim_wrapper__constructor='LearnedNormOptimWrapperConstructor')
    if reason == 'frozen':
        return (
            'what decides the ratios is frozen (requires_grad is False), and gamma or the convolution is not',
            'The ratios stay where they are: a fixed mixture, at the price of a learned one.',
            [f'model.get_submodule({layers[0]!r}).requires_grad_(True)    # and so on; or freeze the whole stage'],
        )
    if reason == 'left out':
        return (
            'the optimizer does not have what decides the ratios',
            'They get gradients and are never changed. Usually the optimizer was made before the norms were put in.',
            ['optimizer = torch.optim.SGD(model.parameters(), ...)    # after mmnorm.convert_norm', constructor],
        )
    if reason == 'no rate':
        return (
            'the rate of what decides the ratios is 0',
            'They stay where they are: a fixed mixture, at the price of a learned one.',
            [case.remedies.options(optim_wrapper__paramwise_cfg__ratio_lr_mult=1)],
        )
    if reason == 'dead':
        return (
            'factors of the net that decides the ratios are zero and get no gradient',
            "All of a net's layers at zero is a point that no gradient leaves. Only the last layer starts there: a "
            "parent's init_cfg, or an initialization of one's own, has reached the others.",
            [f'model.get_submodule({layers[0]!r}).reset_parameters()    # and so on, after all other initialization'],
        )
    return (
        'no gradient reaches what decides the ratios',
        'Gamma gets one, so the loss reaches the layer: the normalizers of the pool give the same here, or a net of '
        'the ratios is cut off.',
        [f'model.get_submodule({layers[0]!r}).reset_parameters()    # and so on', constructor],
    )
