"""Rate and weight decay of norms, and of what decides their ratios: which multiplier is whose, and groups by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from torch import nn

from .base import LearnedNorm

# As mmengine tells norms, and RMSNorm, which PyTorch has from 2.4 on.
_PLAIN_NORMS: tuple[type[nn.Module], ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    nn.GroupNorm,
    nn.LayerNorm,
    *([nn.RMSNorm] if hasattr(nn, 'RMSNorm') else []),
)


def multipliers(name: str, is_flat: bool, options: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """What multiplies rate and decay of one parameter of a learned norm.

    Args:
        name: Its name in the layer.
        is_flat: Whether it has one dimension.
        options: ``norm_decay_mult``, ``ratio_lr_mult``, ``ratio_decay_mult``, ``bias_lr_mult``, ``bias_decay_mult`` and
            ``flat_decay_mult``, as far as they are given; None is not given.

    Returns:
        The multipliers of its rate and of its decay, None for one that no option is about.
    """
    is_affine, is_bias = name in ('weight', 'bias'), name.endswith('bias')
    # In order of precedence. To flat_decay_mult EN's gamma and beta are flat, as any norm's, whatever their shape.
    rate = [] if is_affine else ['ratio_lr_mult'] + ['bias_lr_mult'] * is_bias
    decay = ['norm_decay_mult' if is_affine else 'ratio_decay_mult'] + ['bias_decay_mult'] * is_bias
    decay += ['flat_decay_mult'] * (is_affine or is_flat)
    return _first(rate, options), _first(decay, options)


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    ratio_lr_mult: float = 1.0,
    ratio_decay_mult: float | None = None,
    norm_decay_mult: float | None = None,
    bias_decay_mult: float | None = None,
) -> list[dict[str, Any]]:
    """Groups of parameters for an optimizer, with rates and decays by what the parameters are.

    The multipliers are those that ``LearnedNormOptimWrapperConstructor`` takes from a config. One that is omitted
    leaves its parameters to ``bias_decay_mult``, if that is about them, else as all others. Decay of the ratios draws
    SN's weights and EN's ratios towards uniform, ILM towards its base.

    Args:
        model: Any module. A parameter that several modules share is grouped once, where it is met first; parameters
            that do not require gradients are left out.
        lr: Learning rate of the parameters.
        weight_decay: Their weight decay.
        ratio_lr_mult: Multiplies the rate of what decides the ratios: SN's logits, the nets of EN and ILM, all that
            learned norms have besides gamma and beta.
        ratio_decay_mult: Multiplies their decay.
        norm_decay_mult: Multiplies the decay of gamma and beta, of the learned norms and of PyTorch's.
        bias_decay_mult: Multiplies the decay of the parameters whose names end in ``bias`` and that no other multiplier
            is about.

    Returns:
        For each pair of rate and decay that occurs a dict with ``params``, ``lr`` and ``weight_decay``, in the order in
        which the model has them: the same for the same model and arguments, as a resumed optimizer needs it.

    Raises:
        ValueError: If a number is negative, infinite or none at all.

    Example:
        >>> groups = mmnorm.param_groups(model, lr=0.1, weight_decay=1e-4, norm_decay_mult=0, ratio_lr_mult=0.1)
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9)
    """
    options = {
        'ratio_lr_mult': ratio_lr_mult,
        'ratio_decay_mult': ratio_decay_mult,
        'norm_decay_mult': norm_decay_mult,
        'bias_decay_mult': bias_decay_mult,
    }
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in {'lr': lr, 'weight_decay': weight_decay, **given}.items():
        check_factor(key, value)

    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            rate, decay = _multipliers_in(module, name, parameter, given)
            group = (lr if rate is None else lr * rate, weight_decay if decay is None else weight_decay * decay)
            groups.setdefault(group, []).append(parameter)
    return [{'params': params, 'lr': rate, 'weight_decay': decay} for (rate, decay), params in groups.items()]


def check_factor(name: str, value: object) -> None:
    """Check a rate, a decay or what multiplies one.

    Args:
        name: What it is called.
        value: What was given.

    Raises:
        ValueError: If it is no number from 0 on.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < float('inf'):
        raise ValueError(f'{name} must be a number >= 0, got {value!r}')


def _multipliers_in(module: nn.Module, name: str, parameter: nn.Parameter, options: Mapping[str, Any]):
    if isinstance(module, LearnedNorm):
        return multipliers(name, parameter.ndim == 1, options)
    decay = ['norm_decay_mult'] * isinstance(module, _PLAIN_NORMS) + ['bias_decay_mult'] * name.endswith('bias')
    return None, _first(decay, options)


def _first(names: Iterable[str], options: Mapping[str, Any]) -> float | None:
    return next((options[name] for name in names if options.get(name) is not None), None)
