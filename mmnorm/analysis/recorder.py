"""The recorder: runs a model over data and keeps what its learned norms did there."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from ..engine.batch_average import is_sharded, restored, run_batch, unwrap, with_progress
from ..engine.randomness import preserve_randomness
from ..errors import UsageError
from ..layers.base import LearnedNorm
from .collectors import Collector, collector_for
from .network_parts import learned_norms
from .record_file import LayerRecord, Record
from .samples import Samples, inputs_of
from .wiring import Wiring

logger = logging.getLogger(__name__)


def record(
    model: nn.Module,
    loader: Iterable,
    max_samples: int | None = 50_000,
    num_images: int = 64,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    title: str = '',
    progress: bool = True,
) -> Record | None:
    """Run ``model`` over ``loader`` in eval mode and keep what its SN, EN and ILM layers did.

    Kept are SN's weights, EN's ratios of every sample (K float32 numbers a layer), histograms of the omega and beta
    that ILM predicts and their mean and deviation by channel, labels where the batches have any, and a few small
    images: for 50,000 samples and the 53 EN layers of a ResNet-50, 32 MB.

    Modes, buffers (running statistics) and random number generators are afterwards as before, also if it fails. With
    torch.distributed, each process runs a loader of its own, and the first gets what all have recorded; samples that a
    sampler repeats to make the shares equal are dropped.

    Args:
        model: An mmengine model or any nn.Module, wrapped for distributed training or not.
        loader: Batches of mmengine, or tensors, tuples or lists whose first item is the input and whose second, if it
            is a vector of integers, the labels.
        max_samples: Stop after the batch that reaches this many, in all processes together; None: never.
        num_images: How many samples to keep a picture of, drawn at random.
        forward: ``forward(model, batch)`` runs one batch where the default doesn't know how. ``model`` is unwrapped.
        title: What it is of, for the figures, e.g. 'epoch 12'.
        progress: Whether to show a progress bar (in the first process, where rich is installed).

    Returns:
        The record; None in all processes but the first.

    Raises:
        UsageError: If the model is sharded or has no learned norm, the loader is empty, or no layer was reached; with
            several processes, in the first, and if the loaders of all are empty.
    """
    if max_samples is not None and (isinstance(max_samples, bool) or max_samples <= 0):
        raise UsageError(f'max_samples must be a positive integer or None, got {max_samples!r}')
    if is_sharded(model):
        raise UsageError(
            'record takes a model whose parameters are whole, and this one is sharded (FSDP); load its full state dict '
            'into the model without FSDP, and record that'
        )
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    share = math.inf if max_samples is None else math.ceil(max_samples / world)
    model = unwrap(model)
    layers = learned_norms(model)
    with preserve_randomness(), restored(model):
        model.eval()
        collectors, places, samples = _run(
            model, layers, loader, share, num_images, forward or evaluate_batch, progress
        )
    own = collectors, places, samples
    parts: list = [own]
    if world > 1:
        parts, is_first = [None] * world, dist.get_rank() == 0
        dist.gather_object(own, parts if is_first else None)
        if not is_first:
            return None
    if not any(samples.count for *_, samples in parts):
        raise UsageError(
            f'nothing to record: the loader ({type(loader).__name__}) is empty. Expected at least one batch; look for '
            f'the data set, its annotation file, and a batch size that drop_last makes too large.'
        )
    order = _order([samples.count for *_, samples in parts], _size_of(loader))
    return _assemble(layers, parts, order, _classes_of(model, loader), title)


def evaluate_batch(model: nn.Module, batch: Any) -> Any:
    """Run one batch as mmengine's ``test_step`` does, or as a plain module takes it."""
    test_step = getattr(model, 'test_step', None)
    if hasattr(model, 'data_preprocessor') and test_step is not None:
        return test_step(batch)
    return run_batch(model, batch)


@torch.no_grad()
def _run(model, layers, loader, share, num_images: int, forward: Callable, progress: bool):
    collectors = {name: collector_for(layer) for name, layer in layers.items()}
    samples, wiring = Samples(num_images), Wiring(model)

    def watch(name: str, layer: LearnedNorm, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        wiring.visit(name, x)
        collectors[name].see(layer, x)

    batches = iter(loader)
    first = next(batches, None)
    # A process without data takes part all the same: the first one waits for what it has.
    batches = () if first is None else chain([first], batches)
    with ExitStack() as stack:
        stack.callback(wiring.close)
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(partial(watch, name), with_kwargs=True)
            stack.callback(hook.remove)
        for batch in with_progress(batches, 'Recording', _batches(loader, first, share), progress):
            forward(model, batch)
            count = samples.add(batch)
            for collector in collectors.values():
                collector.end_batch(count)
            wiring.close()
            if samples.count >= share:
                break
    return collectors, wiring.places, samples


def _batches(loader: Iterable, first: Any, share: float) -> int | None:
    """How many batches there will be, as far as that is known."""
    if first is None or not isinstance(loader, Sized):
        return None
    needed = share / max(len(inputs_of(first)), 1)
    return len(loader) if math.isinf(needed) else min(len(loader), math.ceil(needed))


def _order(counts: list[int], size: int | None) -> np.ndarray:
    """Where the samples stand in the data, those of all processes one after the other.

    mmengine's and PyTorch's samplers deal the samples out in turn, and repeat the first at the end.
    """
    world = len(counts)
    position = np.concatenate([np.arange(count) * world + rank for rank, count in enumerate(counts)])
    order = position.argsort(kind='stable')
    return order if size is None or world == 1 else order[:size]


def _size_of(loader: Iterable) -> int | None:
    dataset = getattr(loader, 'dataset', None)
    return len(dataset) if isinstance(dataset, Sized) else None


def _classes_of(model: nn.Module, loader: Iterable) -> tuple[str, ...]:
    dataset = getattr(loader, 'dataset', None)
    while dataset is not None and not hasattr(dataset, 'metainfo') and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    sources = getattr(dataset, 'metainfo', None), getattr(model, 'dataset_meta', None)
    for meta in sources:
        if isinstance(meta, Mapping) and meta.get('classes') is not None:
            return tuple(map(str, meta['classes']))
    return tuple(map(str, getattr(dataset, 'classes', None) or ()))


def _assemble(layers, parts: list, order: np.ndarray, classes: tuple[str, ...], title: str) -> Record:
    collectors: dict[str, Collector] = parts[0][0]
    for others, _, _ in parts[1:]:
        for name, other in others.items():
            collectors[name].merge(other)
    places = {name: place for _, known, _ in reversed(parts) for name, place in known.items()}
    # The first process knows the order best; what only others reached comes behind.
    reached = list(dict.fromkeys(name for _, known, _ in parts for name in known))
    if not reached:
        raise UsageError(
            f'no data reached any of the {len(layers)} learned norms, the first of which is {next(iter(layers))}; '
            f'does forward run the model?'
        )
    unreached = tuple(name for name in layers if name not in places)
    if unreached:
        logger.warning('record: no data reached %s in eval mode; left out', ', '.join(unreached))
    labels = np.array([label for *_, samples in parts for label in samples.labels], dtype=np.int64)[order]
    rank_of, images, image_index = np.cumsum([0, *(samples.count for *_, samples in parts)]), [], []
    where = {int(old): new for new, old in enumerate(order)}
    for start, (*_, samples) in zip(rank_of, parts, strict=False):
        for index, image in samples.images.items():
            if start + index in where:
                images.append(image)
                image_index.append(where[start + index])
    keep = np.argsort(image_index)[: parts[0][2].num_images] if images else np.zeros(0, np.int64)
    pictures = dict(images=np.stack(images)[keep], image_index=np.array(image_index)[keep]) if images else {}
    return Record(
        layers=[
            LayerRecord(
                name=name,
                norm=layers[name].kind,
                conv=places[name].conv,
                size=places[name].size,
                channels=layers[name].num_features,
                normalizers=tuple(getattr(layers[name], 'normalizers', ())),
                values=collectors[name].result(order),
            )
            for name in reached
        ],
        samples=len(order),
        labels=labels if (labels >= 0).any() else None,
        classes=classes,
        unreached=unreached,
        title=title,
        **pictures,
    )
