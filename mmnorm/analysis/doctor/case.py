"""What the checks look at: a network, its norms, and what was seen of them while training batches ran."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...layers.base import LearnedNorm
from ...layers.pooled import PooledNorm
from .remedies import Remedies


@dataclass
class Norm:
    """A norm of the network.

    Attributes:
        name: In the network.
        module: The layer.
        kind: 'BN', 'SyncBN', 'GN', ..., or that of a learned norm, as :func:`mmnorm.convert.sources.kind_of` says.
        training: Whether it is in training mode when the network trains.
        conv: The convolution before it, as :class:`mmnorm.analysis.wiring.Place` says.
        size: Of its input, e.g. (56, 56).
        maker: Name of that convolution; '' where there is none.
        calls: Images and positions of each call of the first batch; none where no data reached it.
        ratios: What the layer gave to each normalizer: (2, K) for SN, of mean and variance; (samples, K) for EN.
        mean: Mean of the values that it was given in all batches, by channel, (C,); None without running statistics.
        var: Their unbiased variance, (C,), likewise.
        count: How many values a channel these are of.
        gradients: Largest gradient of each parameter of its own, by name; None where none came. Without an entry where
            the parameter asks for none.
    """

    name: str
    module: nn.Module
    kind: str
    training: bool
    conv: str = ''
    size: tuple[int, ...] = ()
    maker: str = ''
    calls: list[tuple[int, int]] = field(default_factory=list)
    ratios: Tensor | None = None
    mean: Tensor | None = None
    var: Tensor | None = None
    count: int = 0
    gradients: dict[str, float | None] = field(default_factory=dict)

    @property
    def learned(self) -> LearnedNorm | None:
        """The layer, if it is a learned norm."""
        return self.module if isinstance(self.module, LearnedNorm) else None

    @property
    def pool(self) -> tuple[str, ...]:
        """The normalizers that it uses: those of a pool, or the plain norm that it is."""
        if isinstance(self.module, PooledNorm):
            return self.module.normalizers
        learned = self.learned
        if learned is not None:
            return tuple(filter(None, [learned.sole_normalizer()]))
        return ('BN',) if self.kind == 'SyncBN' else (self.kind,)

    @property
    def is_synchronized(self) -> bool:
        """Whether it takes BN's statistics over all processes."""
        return self.kind == 'SyncBN' or 'BN' in self.pool and bool(getattr(self.module, 'sync', False))

    @property
    def uses_batch(self) -> bool:
        """Whether it normalizes by statistics of the batch when the network trains."""
        tracks = getattr(self.module, 'running_mean', None) is not None
        return 'BN' in self.pool and (self.training or not tracks)

    @property
    def ratio_parameters(self) -> dict[str, nn.Parameter]:
        """What decides the ratios (ILM: the predictions), where there is something to decide."""
        if self.learned is None or isinstance(self.module, PooledNorm) and len(self.pool) == 1:
            return {}
        own = self.learned.own_parameters
        return {name: p for name, p in self.module.named_parameters(recurse=False) if name in own}


@dataclass
class Case:
    """A network that is to be looked at.

    Attributes:
        model: In the modes in which it trains.
        norms: By name, in the order in which data reach them; those that none reach come last.
        remedies: Writes the lines that change something.
        groups: The optimizer's settings, e.g. 'lr', by id of the parameter; None without an optimizer.
        gpus: Processes that training runs on.
        iterations: How many a run has; None if that is not known.
        done: How many the checkpoint has behind it; 0 for a network that has not been trained, None: not known.
        from_data: Whether the batches were those of training, not random images.
        will_load: Prefixes of what weights are still to be loaded into.
        scope: Prefixes of the only parts in which learned norms are wanted; None: everywhere.
    """

    model: nn.Module
    norms: dict[str, Norm]
    remedies: Remedies
    groups: Mapping[int, Mapping[str, Any]] | None = None
    gpus: int = 1
    iterations: int | None = None
    done: int | None = 0
    from_data: bool = True
    will_load: Sequence[str] = ()
    scope: Sequence[str] | None = None

    @property
    def trained(self) -> bool:
        """Whether the weights are those of a training."""
        return self.done != 0

    @property
    def learned(self) -> list[Norm]:
        """The learned norms."""
        return [norm for norm in self.norms.values() if norm.learned is not None]

    def values(self, norm: Norm) -> tuple[int, int] | None:
        """Images and positions that BN has in the call with the fewest; None where no data reached the norm."""
        calls = [call for call in norm.calls if call[0] * call[1]]
        if not calls:
            return None
        images, positions = min(calls, key=lambda call: call[0] * call[1])
        return images * (self.gpus if norm.is_synchronized else 1), positions

    def trains(self, norm: Norm) -> bool:
        """Whether what is around a norm learns: the convolution before it, else the module that holds it."""
        holder = self.model.get_submodule(norm.maker or norm.name.rpartition('.')[0])
        own = {id(p) for p in norm.module.parameters()}
        others = [p for p in holder.parameters() if id(p) not in own]
        return any(p.requires_grad for p in others or norm.module.parameters())

    def settings(self, parameter: nn.Parameter) -> Mapping[str, Any] | None:
        """The optimizer's settings of a parameter; None where it has none."""
        return None if self.groups is None else self.groups.get(id(parameter))
