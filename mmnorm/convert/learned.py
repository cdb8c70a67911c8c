"""From any norm to a learned one: which class, with which arguments, and with which weights."""

import inspect
import re
from dataclasses import dataclass

import torch
from torch import nn

from ..registry import NAMES
from . import sources
from .norm_act import act_class, attach_act, has_act
from .selection import Site
from .tensors import copy_requires_grad, match_dtypes

_TYPE = re.compile(r'(SN|EN|ILM)(?:([123])d)?')
_FROM_THE_LAYER = ('num_features', 'device', 'dtype')
# Sizes of SyncBatchNorm's and GroupNorm's input.
_ANY_RANK = (2, 3, 4, 5)


@dataclass(frozen=True)
class LearnedSpec:
    """The learned norm that the user asked for.

    Attributes:
        kind: 'SN', 'EN' or 'ILM'.
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
        options = dict(norm) if isinstance(norm, dict) else dict(type=norm)
        if 'type' not in options:
            raise ValueError(f"norm={norm!r} has no type; expected e.g. dict(type='EN')")
        name = options.pop('type')
        if isinstance(name, type):
            # NAMES has the 2d classes twice; the last name is the one with a rank.
            name = {layer: key for key, layer in NAMES.items()}.get(name, name)
        if not isinstance(name, str | type):
            raise TypeError(f'norm must be a name or a dict, got {norm!r}')
        match = _TYPE.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise ValueError(f'unknown norm {name!r}; expected one of {", ".join(NAMES)}')
        requires_grad = options.pop('requires_grad', None)
        spec = cls(match[1], int(match[2]) if match[2] else None, options, requires_grad)
        spec._check_options()
        return spec

    def _check_options(self) -> None:
        known = inspect.signature(self._class(2)).parameters
        for name in self.options:
            if name in _FROM_THE_LAYER:
                raise ValueError(f'{name} is taken from each replaced layer; leave it out of norm')
            if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
                names = ', '.join(n for n in known if n not in _FROM_THE_LAYER)
                raise ValueError(f'{self.kind} has no option {name!r}; it has {names}')

    def _class(self, rank: int) -> type[nn.Module]:
        return NAMES[f'{self.kind}{rank}d']

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
        notes = []
        if load_weights:
            notes = _load(layer, source)
        match_dtypes(layer, source)
        copy_requires_grad(layer, source)
        if self.requires_grad is not None:
            layer.requires_grad_(self.requires_grad)
        # A frozen BatchNorm has no mode: it always uses its running statistics.
        frozen = sources.kind_of(source) == 'FrozenBN'
        layer.train(source.training and not frozen)
        if frozen:
            notes.append('in eval mode until model.train()')
        exact = load_weights and not notes and sources.same_function(source, layer)
        return attach_act(layer, source), exact, ', '.join(notes)

    def _make(self, site: Site, load_weights: bool) -> nn.Module:
        source, source_rank = site.module, sources.rank_of(site.module)
        cls = self._class(self.rank or source_rank or 2)
        known = inspect.signature(cls).parameters
        options = {name: value for name, value in sources.options_of(source).items() if name in known}
        options.update(self.options)
        # ILM predicts sigmoid(0) for gamma at the start, and only B_omega can make that the 1 of a norm without gamma.
        needs_affine = self.kind == 'ILM' and load_weights and not options['affine'] and 'affine' not in self.options
        options['affine'] = options['affine'] or needs_affine
        tensors = [t for t in sources.tensors_of(source).values() if t.is_floating_point()] + [site.neighbor]
        factory = {} if tensors[0] is None else dict(device=tensors[0].device, dtype=tensors[0].dtype)
        layer = (act_class(cls) if has_act(source) else cls)(sources.channels_of(source), **options, **factory)
        if needs_affine:
            layer.weight.requires_grad_(False)
            layer.bias.requires_grad_(False)
        if self.rank is None and source_rank is None:
            # The class is named after the usual rank; the input may be of any, as it was before.
            layer._input_ndims = _ANY_RANK
        return layer


def _load(layer: nn.Module, source: nn.Module) -> list[str]:
    """Load the weights of ``source``; what could not be kept."""
    state = {name: tensor.detach() for name, tensor in sources.tensors_of(source).items()}
    notes = []
    if layer.affine:
        channels = layer.num_features
        like = layer.weight
        state.setdefault('weight', torch.ones(channels, device=like.device, dtype=like.dtype))
        state.setdefault('bias', torch.zeros(channels, device=like.device, dtype=like.dtype))
    elif 'weight' in state:
        del state['weight']
        state.pop('bias', None)
        notes.append('gamma and beta dropped')
    layer.load_state_dict(state)
    return notes
