"""From any norm to a learned one: which class, with which arguments, and with which weights."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..layers.base import LearnedNorm
from ..layers.state_dict import AFFINE, reduce_state
from ..registry import NAMES, NORMS, SCOPE
from . import sources
from .norm_act import act_class, attach_act, has_act
from .selection import Site
from .tensors import copy_requires_grad, match_dtypes

_TYPE = re.compile(r'(\w+?)(?:([123])d)?')
_FROM_THE_LAYER = ('num_features', 'device', 'dtype')


@dataclass(frozen=True)
class LearnedSpec:
    """The learned norm that the user asked for.

    Attributes:
        kind: That of a learned norm, e.g. 'SN'.
        rank: 1, 2 or 3; None for that of the replaced layer.
        options: Arguments of the constructor.
        requires_grad: For all parameters; None for that of the replaced layer.
    """

    kind: str
    rank: int | None
    options: dict
    requires_grad: bool | None

    @classmethod
    def parse(cls, norm: str | dict | type) -> 'LearnedSpec':
        """Read 'EN', 'EN1d', or a norm_cfg.

        Raises:
            ValueError: If the norm, or one of its options, is unknown.
            TypeError: If ``norm`` is neither a string nor a dict.
        """
        options: dict[str, Any] = dict(norm) if isinstance(norm, dict) else dict(type=norm)
        if 'type' not in options:
            raise ValueError(f"norm={norm!r} has no type; expected e.g. dict(type='EN')")
        name = options.pop('type')
        if isinstance(name, type):
            # NAMES has the 2d classes twice; the last name is the one with a rank.
            name = {layer: key for key, layer in NAMES.items()}.get(name, name)
        if not isinstance(name, str | type):
            raise TypeError(f'norm must be a name or a dict, got {norm!r}')
        match = _TYPE.fullmatch(name.removeprefix(f'{SCOPE}.')) if isinstance(name, str) else None
        if match is None or match[1] not in NORMS:
            raise ValueError(f'unknown norm {name!r}; expected one of {", ".join(NAMES)}')
        requires_grad = options.pop('requires_grad', None)
        spec = cls(match[1], int(match[2]) if match[2] else None, options, requires_grad)
        spec._check_options()
        return spec

    def _check_options(self) -> None:
        for name in _FROM_THE_LAYER:
            if name in self.options:
                raise ValueError(f'{name} is taken from each replaced layer; leave it out of norm')
        cls: Callable[..., LearnedNorm] = self._class(2)
        try:
            cls(1, **self.options, device='meta')
        except TypeError as error:
            names = ', '.join(name for name in _arguments(cls) if name not in _FROM_THE_LAYER)
            raise ValueError(f'{self.options} does not fit {self.kind}, which takes {names}: {error}') from None

    def _class(self, rank: int) -> type[LearnedNorm]:
        return NAMES[f'{self.kind}{rank}d']

    def why_not(self, source: nn.Module) -> str | None:
        """Why the norm that was asked for does not take the place of ``source``; None if it can."""
        rank = sources.rank_of(source)
        if None in (self.rank, rank) or self.rank == rank:
            return None
        return f'is a {rank}d norm, and {self.kind}{self.rank}d was asked for'

    def build(self, site: Site, load_weights: bool) -> tuple[nn.Module, bool, str]:
        """The layer that takes the place of a norm. The model is not touched.

        Args:
            site: Where the norm stands.
            load_weights: Whether the layer takes the weights of the norm.

        Returns:
            The layer, whether it computes what the norm computes, and what to say about it.

        Raises:
            ValueError: If an option is out of range.
        """
        source = site.module
        layer = self._make(site, load_weights)
        # On the meta device there is nothing to load, and nothing that loading could look at.
        lost = _load(layer, source) if load_weights and not _is_meta(layer) else []
        match_dtypes(layer, source)
        copy_requires_grad(layer, source, also_missing='affine' not in self.options)
        if self.requires_grad is not None:
            layer.requires_grad_(self.requires_grad)
        # A frozen BatchNorm has running statistics in either mode.
        layer.norm_eval = sources.kind_of(source) == 'FrozenBN' or getattr(source, 'norm_eval', False)
        layer.train(source.training)
        exact = load_weights and not lost and sources.same_function(source, layer)
        return attach_act(layer, source), exact, f'without {", ".join(lost)}' if lost else ''

    def _make(self, site: Site, load_weights: bool) -> LearnedNorm:
        source, source_rank = site.module, sources.rank_of(site.module)
        cls = self._class(self.rank or source_rank or 2)
        known = _arguments(cls)
        options = {name: value for name, value in sources.options_of(source).items() if name in known}
        if load_weights and cls.needs_affine:
            options['affine'] = True
        options.update(self.options)
        tensors = [t for t in sources.tensors_of(source).values() if t.is_floating_point()] + [site.neighbor]
        factory: dict[str, Any] = {} if tensors[0] is None else dict(device=tensors[0].device, dtype=tensors[0].dtype)
        layer = (act_class(cls) if has_act(source) else cls)(sources.channels_of(source), **options, **factory)
        if self.rank is None and source_rank is None:
            # The class is named after the usual rank; the input may be of any, as it was before.
            layer.rank = None
        return layer


def _arguments(cls: Callable) -> list[str]:
    """Names of the constructor's arguments; with those of its bases as far as it hands on what it does not know."""
    names: dict[str, None] = {}
    for definer in inspect.getmro(cls):  # type: ignore[arg-type]
        if '__init__' not in vars(definer):
            continue
        parameters = list(inspect.signature(definer.__init__).parameters.values())[1:]  # type: ignore[misc]
        names.update(dict.fromkeys(p.name for p in parameters if p.kind is not p.VAR_KEYWORD))
        # What is called "unused" goes nowhere.
        if not any(p.kind is p.VAR_KEYWORD and p.name != 'unused' for p in parameters):
            break
    return list(names)


def _is_meta(layer: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in layer.parameters())


def _load(layer: LearnedNorm, source: nn.Module) -> list[str]:
    """Load the weights of ``source`` as a checkpoint with them would be; what was lost, in words."""
    state = reduce_state({name: tensor.detach() for name, tensor in sources.tensors_of(source).items()})
    if layer.affine and layer.weight is not None:
        for name, value in dict(weight=1, bias=0).items():
            state.entries.setdefault(name, layer.weight.new_full((layer.num_features,), value))
    lost = layer.adapt_state(state)[1]
    if not layer.affine and state.entries.keys() & set(AFFINE):
        lost = [*lost, 'gamma and beta']
        for name in AFFINE:
            state.entries.pop(name, None)
    layer.load_state_dict(state.entries)
    return state.dropped + lost
