"""The network of ENAS's cells (arXiv 1802.03268, Section 2.3): all architectures in one, or the one that was found."""

from typing import Any

from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...registry import register_in
from .cells import SearchCell
from .operations import normed
from .search_space import Genotype, read_genotype


@register_in(MODELS)
class EnasNetwork(BaseModule):
    """A stem and three stages of N normal cells, with a reduction cell between, which doubles the channels.

    Without a genotype it has the weights of all architectures, and runs as that which :meth:`choose` names; with one
    its weights are those of them that this architecture has, under the same names.

    Args:
        nodes: Nodes of a cell, B; with a genotype, as many as it has.
        cells: Normal cells of a stage, N.
        channels: Channels of the first stage.
        norm_cfg: The norm. One of the batch's own statistics, without running ones, where architectures share weights.
        genotype: As :func:`.read_genotype` takes it: a text or a .json file; None is any.
        drop_path: Probability, in the last cell at the end of training, that an edge other than the identity gives
            nothing for a sample; it grows from 0 with depth and with the course of training (ScheduledDropPath).
        init_cfg: As of mmengine's BaseModule.

    Raises:
        UsageError: If the genotype is none, or a number is out of its range.
    """

    def __init__(
        self,
        nodes: int | None = None,
        cells: int = 2,
        channels: int = 20,
        norm_cfg: dict | None = None,
        genotype: Any = None,
        drop_path: float = 0.0,
        init_cfg: Any = (dict(type='Kaiming', layer='Conv2d'),),
    ) -> None:
        super().__init__(list(init_cfg) if init_cfg else None)
        norm_cfg = norm_cfg or dict(type='BN')
        self.fixed = None if genotype is None else read_genotype(genotype, nodes)
        self.nodes: int = self.fixed.nodes if self.fixed is not None else 5 if nodes is None else nodes
        for name, value, least in (('nodes', self.nodes, 1), ('cells', cells, 0), ('channels', channels, 2)):
            if not isinstance(value, int) or value < least:
                raise UsageError(f'{name} of EnasNetwork: expected an integer of at least {least}, got {value!r}')
        if not 0 <= drop_path < 1:
            raise UsageError(f'drop_path of EnasNetwork: expected a probability below 1, got {drop_path!r}')
        self.drop_path = drop_path
        self._chosen = self.fixed
        self.stem = normed(norm_cfg, 3 * channels, conv=nn.Conv2d(3, 3 * channels, 3, padding=1, bias=False))
        self.cells = nn.ModuleList()
        self._reductions = []
        before = last = 3 * channels
        stride = 1
        for stage in range(3):
            for reduction in ([True] if stage else []) + [False] * cells:
                channels *= 2 if reduction else 1
                only = None if self.fixed is None else self.fixed.reduction if reduction else self.fixed.normal
                cell = SearchCell((before, last), channels, self.nodes, (stride, 1), reduction, norm_cfg, only)
                self.cells.append(cell)
                self._reductions.append(reduction)
                before, last, stride = last, channels, 2 if reduction else 1
        self.out_channels = last

    @property
    def genotype(self) -> Genotype | None:
        """The architecture as which it runs."""
        return self._chosen

    def choose(self, genotype: Genotype) -> None:
        """Run as this architecture from now on.

        Raises:
            UsageError: If it is another than the only one, or has another number of nodes.
        """
        if self.fixed not in (None, genotype):
            raise UsageError(f'this network has the weights of {str(self.fixed)!r} alone')
        self._chosen = read_genotype(genotype, self.nodes)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(N, 3, H, W) to (N, out_channels, H / 4, W / 4), in a tuple, as mmpretrain's backbones give it."""
        if self._chosen is None:
            raise UsageError('EnasNetwork has no architecture: give it a genotype, or train it in an EnasSearch')
        before = last = self.stem(x)
        drop = self._drop_path_now() if self.drop_path and self.training else 0.0
        for number, (cell, reduction) in enumerate(zip(self.cells, self._reductions, strict=True), 1):
            genes = self._chosen.reduction if reduction else self._chosen.normal
            before, last = last, cell(before, last, genes, drop * number / len(self.cells))
        return (F.relu(last),)

    def _drop_path_now(self) -> float:
        """``drop_path`` by how much of the training is done, all of it where no Runner says so."""
        hub = MessageHub.get_current_instance()
        done, end = (hub.get_info(name, None) for name in ('iter', 'max_iters'))
        return self.drop_path * (min(1.0, (done + 1) / end) if end and done is not None else 1.0)
