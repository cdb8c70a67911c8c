"""Batch average: BN statistics estimated anew with frozen parameters, the SN paper's inference procedure."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, Protocol, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import ops
from ..layers.pooled import PooledNorm
from ..ops.compat import BatchNormBase, DropoutBase
from .randomness import preserve_randomness

VARIANCES = ('total', 'average')
# Dropout by other names, in mmcv, timm and torchvision.
_NOISE = ('DropPath', 'StochasticDepth', 'DropBlock', 'DropBlock2d', 'Dropout')
logger = logging.getLogger(__name__)


class _WithStatistics(Protocol):
    """A layer that has running statistics: a norm of ours or a BatchNorm, which may have none."""

    num_features: int
    running_mean: Tensor
    running_var: Tensor


class Population:
    """Mean and variance of every value that a layer was given, or makes its statistics of, by channel, in float64.

    Args:
        layer: The layer.
        variance: 'total', or 'average': that within the batches alone.
    """

    def __init__(self, layer: _WithStatistics, variance: str) -> None:
        device = layer.running_mean.device
        dtype = torch.float32 if device.type == 'mps' else torch.float64
        self.count = torch.zeros((), dtype=dtype, device=device)
        self.mean = torch.zeros(layer.running_mean.numel(), dtype=dtype, device=device)
        self.squares = torch.zeros_like(self.mean)
        self.within = variance == 'average'

    def watch(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        """Take in the input of ``layer``; a forward pre-hook."""
        x = (args[0] if args else next(iter(kwargs.values()))).detach()
        if x.numel() == 0:
            return
        with torch.autocast(x.device.type, enabled=False):
            means, variances = ops.moments(x)
            positions = x.shape[2:].numel()
            if isinstance(layer, PooledNorm):
                means, variances, positions = layer.tracked_moments(means, variances, positions)
        means, variances = means.to(self.mean), variances.to(self.mean)
        mean = means.mean(0)
        squares = (variances + (means - mean).square()).sum(0) * positions
        self._merge(x.shape[0] * positions, mean, squares)

    def _merge(self, count, mean: Tensor, squares: Tensor) -> None:
        # The law of total variance: the squares about the common mean are those about each mean and the means' own.
        total = self.count + count
        difference = mean - self.mean
        self.squares += squares
        if not self.within:
            self.squares += difference.square() * (self.count * count / total)
        self.mean += difference * (count / total)
        self.count = total

    def pool_processes(self) -> None:
        """Merge with the populations of the same layer in all processes."""
        count, total = self.count.clone(), self.mean * self.count
        dist.all_reduce(count)
        dist.all_reduce(total)
        mean = total / count.clamp(min=1)
        if not self.within:
            self.squares += self.count * (self.mean - mean).square()
        dist.all_reduce(self.squares)
        self.count, self.mean = count, mean

    def variance(self) -> Tensor:
        """Unbiased, as nn.BatchNorm tracks it; within the batches biased, as they are normalized by."""
        return self.squares / (self.count if self.within else (self.count - 1).clamp(min=1))


def update_bn_stats(
    model: nn.Module,
    loader: Iterable,
    num_iters: int = 200,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    progress: bool = True,
    variance: str = 'total',
) -> int:
    """Estimate the running statistics of BN anew, over training batches and with frozen parameters.

    This is the batch average of the SN paper (arXiv 1806.10779, first version, Section 2.1), there for SN; here it is
    done for the BN in SN and EN, and for nn.BatchNorm and nn.SyncBatchNorm. A moving average mixes the statistics of
    many past networks; this takes those of the network as it is. Each layer normalizes by its batch's statistics as
    in training, and its running mean and variance become those of all the values that it was given in all batches, by
    the law of total variance: no average of averages, so batches of different sizes weigh what they hold. With
    torch.distributed, they are pooled over all processes, of which each needs a loader of its own.

    Only layers that are in training mode count: norms that a backbone's ``frozen_stages`` or ``norm_eval``, or a call
    of ``eval()``, took out of it stay as they are. A model in eval mode is asked which those are by ``model.train()``.
    Dropout and stochastic depth are off. Afterwards modes, buffers (also ``num_batches_tracked``) and the state of the
    random number generators are as before, except for the statistics; if anything fails, those too.

    Args:
        model: An mmengine model or any nn.Module, wrapped for distributed training or not.
        loader: Training batches: what ``model.data_preprocessor`` takes if it is an mmengine model; else tensors,
            tuples or lists whose first item is the input, or dicts of keyword arguments.
        num_iters: Number of batches, in each process; fewer where the loader of one has fewer.
        forward: ``forward(model, batch)`` runs one batch where the default doesn't know how. ``model`` is unwrapped.
        progress: Whether to show a progress bar (in the first process, where rich is installed).
        variance: 'total' is that of all values, as the SN paper's code takes it; 'average' is the average of the
            batches' own variances, as its text says it, which leaves out how far the batches' means are apart.

    Returns:
        Number of batches used: fewer where the loader has fewer, and 0 where no layer has statistics to estimate.

    Raises:
        ValueError: If ``num_iters`` is not positive, the loader is empty, or a layer's statistics are not finite. The
            model is then as before.
    """
    if isinstance(num_iters, bool) or not isinstance(num_iters, int) or num_iters <= 0:
        raise ValueError(f'num_iters must be a positive integer, got {num_iters!r}')
    if variance not in VARIANCES:
        raise ValueError(f'variance must be one of {", ".join(VARIANCES)}, got {variance!r}')
    distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    # A sharded model has parameters only while the wrapper runs it.
    model = model if is_sharded(model) else unwrap(model)
    with preserve_randomness(), restored(model):
        if not model.training:
            model.train()
        layers: dict[str, _WithStatistics]
        layers = {name: module for name, module in model.named_modules() if _has_statistics(module)}
        if not layers:
            logger.warning(
                'update_bn_stats: nothing to do, %s has no BN with running statistics in training mode',
                type(model).__name__,
            )
            return 0
        batches: Iterator = islice(loader, num_iters)
        if distributed:
            batches = _in_step(batches, next(iter(layers.values())).running_mean.device)
        for module in model.modules():
            if isinstance(module, DropoutBase) or type(module).__name__ in _NOISE:
                module.eval()
        populations = {name: Population(layer, variance) for name, layer in layers.items()}
        used = _run(model, layers, populations, batches, num_iters, forward or run_batch, progress)
        if used == 0:
            where = ' in at least one of the processes' if distributed else ''
            raise ValueError(f'update_bn_stats got an empty loader{where}; it takes at least one training batch')
        if used < num_iters:
            logger.warning('update_bn_stats: the loader has only %d of the %d batches asked for', used, num_iters)
        if distributed:
            for population in populations.values():
                population.pool_processes()
        _check(populations)
    unseen = [name for name, population in populations.items() if population.count == 0]
    if unseen:
        logger.warning('update_bn_stats: no data reached %s; statistics kept', ', '.join(unseen))
    for name, layer in layers.items():
        if name not in unseen:
            layer.running_mean.copy_(populations[name].mean)
            layer.running_var.copy_(populations[name].variance())
    return used


def _in_step(batches: Iterable, device: torch.device) -> Iterator:
    """As many of the batches as every process has: layers that synchronize wait for the others in each."""
    batches = iter(batches)
    while True:
        batch = next(batches, None)
        all_have_one = torch.tensor(batch is not None, dtype=torch.int32, device=device)
        dist.all_reduce(all_have_one, op=dist.ReduceOp.MIN)
        if not all_have_one:
            return
        yield batch


def run_batch(model: nn.Module, batch: Any) -> Any:
    """Run one training batch through a model, as mmengine's ``train_step`` does or as a plain module takes it.

    Raises:
        TypeError: If the batch is nothing that a plain module could take.
    """
    preprocess = getattr(model, 'data_preprocessor', None)
    if preprocess is not None and hasattr(model, 'train_step'):
        data = preprocess(batch, True)
        return model(**data, mode='loss') if isinstance(data, Mapping) else model(*data, mode='loss')
    device = next(chain(model.parameters(), model.buffers())).device
    if isinstance(batch, Mapping):
        return model(**{key: value.to(device) if hasattr(value, 'to') else value for key, value in batch.items()})
    inputs = batch[0] if isinstance(batch, list | tuple) else batch
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f'not known how to run a batch of type {type(batch).__name__}; say it: '
            f'forward=lambda model, batch: model(...)'
        )
    return model(inputs.to(device))


def _has_statistics(module: nn.Module) -> TypeGuard[_WithStatistics]:
    return (
        isinstance(module, PooledNorm | BatchNormBase)
        and module.training
        and module.track_running_stats
        and module.running_mean is not None
    )


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside of a wrapper for distributed training or test-time augmentation."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return model.module
    try:
        from mmengine.model import BaseTTAModel, is_model_wrapper
    except ImportError:
        return model
    is_wrapped = is_model_wrapper(model) or isinstance(model, BaseTTAModel)
    return unwrap(model.get_submodule('module')) if is_wrapped else model


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters are whole only while the model runs (FullyShardedDataParallel or ``fully_shard``)."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrapped = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    return wrapped or any(hasattr(parameter, 'full_tensor') for parameter in model.parameters())


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Modes and buffers are afterwards as before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def _run(model, layers, populations, batches, num_iters: int, forward: Callable, progress: bool) -> int:
    hooks = [
        layer.register_forward_pre_hook(populations[name].watch, with_kwargs=True) for name, layer in layers.items()
    ]
    used = 0
    try:
        for batch in with_progress(batches, 'BN statistics', num_iters, progress):
            forward(model, batch)
            used += 1
    finally:
        for hook in hooks:
            hook.remove()
    return used


def with_progress(batches: Iterable, title: str, total: int | None, progress: bool = True) -> Iterable:
    """Show a progress bar (in the first process, where rich is installed)."""
    if not progress or (dist.is_available() and dist.is_initialized() and dist.get_rank() != 0):
        return batches
    try:
        from rich.progress import track
    except ImportError:
        return batches
    return track(batches, title, total=total)


def _check(populations: dict[str, Population]) -> None:
    for name, population in populations.items():
        if not (population.mean.isfinite() & population.squares.isfinite()).all():
            raise ValueError(
                f'update_bn_stats: the input of {name or "the layer"} was not finite, so neither are its statistics; '
                f'the model was left as it is. Look for NaN or overflow in its weights or in the data.'
            )
