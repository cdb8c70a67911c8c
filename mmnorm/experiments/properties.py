"""What a row really has: of its run, by the config that the Runner gets, and of its network, by the built model."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from ..convert.sources import kind_of
from ..layers.pooled import PooledNorm
from .catalogue import Experiment
from .commands import AS_IT_STANDS, Variant

_ENDS = ('Load', 'Pack', 'Resize', 'CenterCrop')


def run_properties(row: Experiment, cfg: Config, variant: Variant = AS_IT_STANDS) -> dict[str, Any]:
    """How a row is trained and tested.

    Args:
        row: The row.
        cfg: Its config, as the Runner gets it.
        variant: How it is run.

    Returns:
        ``gpus``, ``images`` (a GPU), ``batch``; ``optimizer``, ``rate``, ``momentum``, ``decay``; ``epochs`` or
        ``iterations``; ``drops`` and ``factor``, ``poly`` (its power), or ``linear`` (start and end of a decay to 0);
        ``warmup`` ('500 iterations', '1 epoch', None); ``train_crop``, ``train_transforms``,
        ``short_side``, ``test_crop``, ``test_short_side``;
        ``train_proposals``, ``test_proposals``; ``batch_average`` (batches, or None); ``balanced`` (classes);
        ``start`` (whether from another row); ``network``, ``depth``, ``dilations``, ``strides`` of the backbone.
    """
    optimizer = cfg.optim_wrapper.optimizer
    gpus, images = variant.gpus_of(row), cfg.train_dataloader.batch_size
    found = dict(gpus=gpus, images=images, batch=gpus * images)
    found.update(
        optimizer=optimizer.type, rate=optimizer.lr, momentum=optimizer.get('momentum'), decay=optimizer.weight_decay
    )
    found.update(epochs=cfg.train_cfg.get('max_epochs'), iterations=cfg.train_cfg.get('max_iters'))
    found.update(_schedule(cfg))
    train, test = (_pipeline(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'test'))
    found.update(
        train_crop=_size(train, 'RandomResizedCrop', 'scale')
        or _size(train, 'RandomCrop', 'crop_size')
        or _size(train, 'RandomPairCrop', 'size'),
        train_transforms=[step['type'] for step in train if not step['type'].startswith(_ENDS)],
        short_side=_size(train, 'Resize', 'scale') or _size(train, 'ResizePair', 'scale'),
        test_crop=_size(test, 'CenterCrop', 'crop_size'),
        test_short_side=_size(test, 'ResizeEdge', 'scale')
        or _size(test, 'Resize', 'scale')
        or _size(test, 'ResizePair', 'scale'),
    )
    proposals = cfg.model.get('train_cfg', {}).get('rpn_proposal')
    if proposals:
        found.update(train_proposals=proposals.max_per_img, test_proposals=cfg.model.test_cfg.rpn.max_per_img)
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook.type == 'BatchAverageHook']
    found.update(
        batch_average=hooks[0].get('num_iters', 200) if hooks else None,
        balanced=cfg.train_dataloader.sampler.type == 'ClassBalancedSampler',
        start=row.start is not None,
    )
    backbone = main_network(cfg.model)
    found['network'] = backbone.type
    for key in ('depth', 'dilations', 'strides'):
        value = backbone.get(key)
        found[key] = list(value) if isinstance(value, list | tuple) else value
    return found


def main_network(model: Mapping) -> Any:
    """Config of the network that a row is about: the backbone, of a search the shared one, or what makes images."""
    model = model.get('shared') or model
    return next(model[name] for name in ('backbone', 'network', 'generator') if model.get(name))


def network_properties(cfg: Config, model: nn.Module) -> dict[str, Any]:
    """What the norms of a built model are, and how they are trained.

    Args:
        cfg: Its config.
        model: The model, which may be on the meta device. It is in training mode afterwards.

    Returns:
        Of EN ``r`` and ``expansion``; of SN and EN ``pool`` and ``sync``; of ILM ``key_group``, ``embedding`` (sizes)
        and ``activations``; ``groups`` of GN or of ILM's base; ``affine_decay`` (weight decay of gamma and beta),
        ``frozen`` (whether all norms of the backbone stay as they are), ``box_head`` (convolutions, FCs). A value that
        is not the same in all layers is a list of those there are.
    """
    model.train()
    norms: list[nn.Module] = []
    by_kind: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        kind = kind_of(module)
        if kind is not None and kind != 'other':
            norms.append(module)
            by_kind.setdefault(kind, []).append(module)
    found: dict[str, Any] = {}
    pooled = [norm for norms in by_kind.values() for norm in norms if isinstance(norm, PooledNorm)]
    if pooled:
        found.update(pool=_same(list(norm.normalizers) for norm in pooled), sync=_same(norm.sync for norm in pooled))
    if 'EN' in by_kind:
        found.update(
            r=_same(norm.reduction for norm in by_kind['EN']), expansion=_same(norm.expansion for norm in by_kind['EN'])
        )
    if 'ILM' in by_kind:
        layers = by_kind['ILM']
        found.update(
            key_group=_same(norm.key_group_size for norm in layers),
            embedding=_same(norm.embedding_size for norm in layers),
            activations=_same([norm.mean_activation, norm.var_activation] for norm in layers),
        )
    grouped = [norm for kind in ('GN', 'ILM') for norm in by_kind.get(kind, ())]
    if grouped:
        found['groups'] = _same(norm.num_groups for norm in grouped)
    found['affine_decay'] = _affine_decay(cfg, model, norms)
    backbone = getattr(model, 'backbone', model)
    own = [norm for norm in backbone.modules() if norm in set(norms)]
    found['frozen'] = all(not norm.training and not any(p.requires_grad for p in norm.parameters()) for norm in own)
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    if head is not None and hasattr(head, 'num_shared_convs'):
        found['box_head'] = [head.num_shared_convs, head.num_shared_fcs]
    return found


def _schedule(cfg: Config) -> dict[str, Any]:
    given: Any = cfg.get('param_scheduler') or []
    # Of models whose parts learn by turns, those of all parts.
    by_part = given.values() if isinstance(given, Mapping) and 'type' not in given else [given]
    schedulers = [one for part in by_part for one in (part if isinstance(part, list) else [part])]
    found: dict[str, Any] = dict(warmup=None)
    for scheduler in schedulers:
        if scheduler.type == 'MultiStepLR':
            found.update(drops=list(scheduler.milestones), factor=scheduler.get('gamma', 0.1))
        elif scheduler.type == 'PolyLR':
            found['poly'] = scheduler.get('power', 1)
        elif scheduler.type == 'LinearLR' and scheduler.get('end_factor') == 0:
            found['linear'] = [scheduler.begin, scheduler.end]
        elif scheduler.type in ('LinearLR', 'ConstantLR'):
            unit = 'epoch' if scheduler.get('by_epoch', True) else 'iterations'
            found['warmup'] = f'{scheduler.end} {unit}'
    return found


def _pipeline(dataset: Mapping) -> list[Mapping]:
    while 'pipeline' not in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset['pipeline']


def _size(pipeline: list[Mapping], kind: str, key: str) -> int | None:
    """The short side that a transform is set to."""
    for step in pipeline:
        if step['type'] == kind and key in step:
            value = step[key]
            return min(value) if isinstance(value, list | tuple) else value
    return None


def _affine_decay(cfg: Config, model: nn.Module, norms: list[nn.Module]) -> Any:
    groups = build_optim_wrapper(model, deepcopy(cfg.optim_wrapper)).param_groups
    # Of models whose parts learn by turns, those of each part.
    by_part = groups.values() if isinstance(groups, Mapping) else [groups]
    decay = {id(p): group['weight_decay'] for of_part in by_part for group in of_part for p in group['params']}
    own = [p for norm in norms for name in ('weight', 'bias') if (p := getattr(norm, name, None)) is not None]
    return _same(decay[id(p)] for p in own if id(p) in decay)


def _same(values: Iterator[Any]) -> Any:
    """The value, if it is one; else all there are, in order."""
    different: list[Any] = []
    for value in values:
        if value not in different:
            different.append(value)
    if len(different) == 1:
        return different[0]
    return sorted(different) if different else None
