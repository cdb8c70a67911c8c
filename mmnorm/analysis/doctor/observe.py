"""What each norm does while training batches run: sizes, ratios, values, gradients. The network stays as it is."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, reduce
from itertools import chain
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ...convert.sources import kind_of
from ...engine.batch_average import Population, restored, run_batch
from ...engine.randomness import preserve_randomness
from ...errors import UsageError
from ..costs import tensors_in
from ..wiring import Wiring
from .case import Norm

# How nn.BatchNorm and nn.InstanceNorm say that they have one value.
_REFUSED = ('more than 1 value per channel', 'more than 1 spatial element')


def norms_of(model: nn.Module) -> dict[str, Norm]:
    """All norms of a network, in the modes that they have, by name."""
    found = {}
    for name, module in model.named_modules():
        kind = kind_of(module)
        if kind not in (None, 'other'):
            found[name] = Norm(name, module, str(kind), module.training)
    return found


def observe(
    model: nn.Module, batches: Iterable, forward: Callable[[nn.Module, Any], Any] | None = None
) -> dict[str, Norm]:
    """Run training batches through a network, the first of them forward and backward.

    Args:
        model: In the modes in which it trains.
        batches: At least one.
        forward: ``forward(model, batch)`` returns the loss, losses, or whatever tensors there are; as in training, for
            an mmengine model, if None.

    Returns:
        The norms by name, in the order in which data reach them; those that none reach come last.

    Raises:
        UsageError: If there is no batch.
    """
    norms = norms_of(model)
    wiring = Wiring(model)
    populations: dict[str, Population] = {}
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise UsageError('no batch to look at: the loader is empty. Expected at least one training batch.')
    run = forward or run_batch
    with preserve_randomness(), restored(model), gradients_kept(model), ExitStack() as stack:
        stack.callback(wiring.close)
        for norm in norms.values():
            watch = partial(_watch, norm, wiring, populations, model)
            hook = norm.module.register_forward_pre_hook(watch, with_kwargs=True)
            stack.callback(hook.remove)

        def forget() -> None:
            for norm in norms.values():
                norm.calls, norm.ratios = [], None
            populations.clear()
            wiring.places.clear()

        with torch.enable_grad():
            output = _run(run, model, first, norms, forget, stack)
            loss = _loss(model, output)
            if loss is not None:
                loss.backward()
        for norm in norms.values():
            norm.gradients = _gradients(norm.module)
        del output, loss
        for name, place in wiring.places.items():
            norms[name].conv, norms[name].size, norms[name].maker = place.conv, place.size, place.maker
        wiring.close()
        with torch.no_grad():
            for batch in batches:
                run(model, batch)
        for name, population in populations.items():
            norms[name].mean, norms[name].var = population.mean, population.variance()
            norms[name].count = int(population.count)
    return {name: norms[name] for name in chain(wiring.places, (name for name in norms if name not in wiring.places))}


@torch.no_grad()
def _watch(
    norm: Norm,
    wiring: Wiring,
    populations: dict[str, Population],
    model: nn.Module,
    module: nn.Module,
    args: tuple,
    kwargs: dict,
) -> None:
    x = args[0] if args else next(iter(kwargs.values()))
    if getattr(module, 'running_mean', None) is not None and hasattr(module, 'num_features'):
        populations.setdefault(norm.name, Population(module, 'total')).watch(module, args, kwargs)  # type: ignore[arg-type]
    if wiring.is_open:
        # The first batch: a later one may be the rest of an epoch.
        wiring.visit(norm.name, x)
        channels_last = norm.kind == 'LN' and getattr(module, 'num_features', None) is None
        norm.calls.append((x.shape[0], 1 if channels_last else x.shape[2:].numel()))
    learned = norm.learned
    if learned is None or x.numel() == 0:
        return
    if learned.learns == 'weights':
        norm.ratios = learned.importance_weights().float().cpu()
    elif learned.learns == 'ratios':
        ratios = learned.importance_ratios(x).float().cpu()
        norm.ratios = ratios if norm.ratios is None else torch.cat([norm.ratios, ratios])


def _run(
    run: Callable, model: nn.Module, batch: Any, norms: dict[str, Norm], forget: Callable[[], None], stack: ExitStack
) -> Any:
    """Run the first batch. nn.BatchNorm raises where it has one value: from then on such layers do nothing."""
    for _ in norms:
        try:
            return run(model, batch)
        except ValueError as error:
            refusing = [norm for norm in norms.values() if norm.calls and _refuses(norm)]
            if not any(text in str(error) for text in _REFUSED) or not refusing:
                raise
        for norm in refusing:
            stack.enter_context(patch.object(norm.module, 'forward', lambda x: x))
        forget()
    return run(model, batch)


def _refuses(norm: Norm) -> bool:
    """Whether the last call had a single value a channel, or a plane, and the layer is PyTorch's."""
    images, positions = norm.calls[-1]
    alone = positions == 1 and (norm.kind == 'IN' or norm.kind in ('BN', 'SyncBN') and images == 1)
    return alone and 'forward' not in vars(norm.module)


def _loss(model: nn.Module, output: Any) -> Tensor | None:
    """What to go backward from: the losses of an mmengine model, else all values that differ, at random weights."""
    if isinstance(output, Mapping) and hasattr(model, 'parse_losses') and any('loss' in key for key in output):
        parse_losses: Any = model.parse_losses
        return parse_losses(output)[0]
    tensors = [t for t in tensors_in(output) if t.requires_grad and t.is_floating_point()]
    if not tensors:
        return None
    generator = torch.Generator().manual_seed(0)
    parts = [(t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in tensors]
    return reduce(torch.add, parts)


def _gradients(module: nn.Module) -> dict[str, float | None]:
    own = module.named_parameters(recurse=False)
    return {
        name: None if p.grad is None else float(p.grad.abs().max()) if p.numel() else 0.0
        for name, p in own
        if p.requires_grad
    }


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Gradients are none inside, and afterwards what they were before."""
    before = [(p, p.grad) for p in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
