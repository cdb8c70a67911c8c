"""All checks on a network, in the order in which one would see to them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ...errors import UsageError
from ...layers.norm_eval import apply_norm_eval
from .batch_weight import check_batch_weight
from .case import Case, Norm
from .decay import check_decay
from .findings import Finding, name_some
from .gradients import check_gradients
from .leftovers import check_leftovers
from .modes import check_modes
from .observe import observe
from .ratios import check_saturated, check_stuck
from .remedies import Remedies
from .statistics import check_statistics
from .values_seen import check_values

CHECKS: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    check_values,
    check_batch_weight,
    check_statistics,
    check_stuck,
    check_saturated,
    check_gradients,
    check_modes,
    check_decay,
    check_leftovers,
)
BATCHES = 20


@dataclass
class Diagnosis:
    """What came of it.

    Attributes:
        title: What was looked at.
        case: The network, and what was seen of each norm.
        findings: What is wrong; empty for a healthy network.
        notes: What was not looked at, and why; on what it ran.
    """

    title: str
    case: Case
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)

    @property
    def norms(self) -> dict[str, Norm]:
        """The norms, by name."""
        return self.case.norms


def diagnose(
    model: nn.Module,
    batches: Iterable,
    optimizer: Optimizer | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    max_batches: int = BATCHES,
    done: int | None = 0,
    iterations: int | None = None,
    gpus: int = 1,
    norm_eval: bool = False,
    from_data: bool = True,
    title: str = '',
    remedies: Remedies | None = None,
    will_load: Sequence[str] = (),
    scope: Sequence[str] | None = None,
) -> Diagnosis:
    """Look at the norms of a network as it trains. It is afterwards as before, gradients and random numbers included.

    Args:
        model: An mmengine model, or any nn.Module. What is in eval mode while the root is in training mode, stays so;
            a model in eval mode is asked by ``model.train()`` which those are.
        batches: Training batches, as :func:`mmnorm.update_bn_stats` takes them.
        optimizer: That of training; without, nothing is said of decay and rates.
        forward: ``forward(model, batch)`` runs one batch where the default doesn't know how; best it returns the loss.
        max_batches: How many to run.
        done: Iterations of training behind the weights: 0 for a network that is new, None if that is not known.
        iterations: Those of a whole run, for decay; None if that is not known.
        gpus: Processes that training runs on, each with such batches.
        norm_eval: Whether training calls :func:`mmnorm.apply_norm_eval`, as ``NormEvalHook`` does.
        from_data: Whether the batches are those of training, not random ones, which say nothing of statistics.
        title: What it is called.
        remedies: Writes what to change; without a config, as a program would.
        will_load: Prefixes of what weights are still to be loaded into.
        scope: Names of the only sub-modules in which learned norms are wanted; None: everywhere.

    Returns:
        The findings, and what was seen of each norm.

    Raises:
        UsageError: If there is no norm, or no batch.
    """
    modes = [(module, module.training, getattr(module, 'norm_eval', None)) for module in model.modules()]
    try:
        if not model.training:
            model.train()
        if norm_eval:
            apply_norm_eval(model)
        norms = observe(model, islice(batches, max_batches), forward)
        if not norms:
            raise UsageError(f'{type(model).__name__} has no norm to look at')
        groups: Mapping[int, Mapping[str, Any]] | None = None
        if optimizer is not None:
            groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
        case = Case(
            model=model,
            norms=norms,
            remedies=remedies or Remedies(),
            groups=groups,
            gpus=gpus,
            iterations=iterations,
            done=done,
            from_data=from_data,
            will_load=will_load,
            scope=scope,
        )
        findings = [finding for check in CHECKS for finding in check(case)]
    finally:
        for module, training, switch in modes:
            module.training = training
            if switch is not None:
                module.norm_eval = switch
    unreached = [name for name, norm in norms.items() if not norm.calls]
    notes = [f'no data reached {name_some(unreached)}'] if unreached else []
    return Diagnosis(title or type(model).__name__, case, findings, notes)
