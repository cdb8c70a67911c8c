"""A cell of ENAS (arXiv 1802.03268, Section 2.3): with the weights of every architecture, or of one."""

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.drop import drop_path
from torch import Tensor, nn
from torch.nn import functional as F

from .operations import FactorizedReduction, build_operation, pointwise
from .search_space import INPUTS, OPERATIONS, Cell, loose_ends


class SearchCell(nn.Module):
    """A cell that runs as whatever architecture it is told.

    Each pair of a node's input and an operation has weights of its own, which all architectures share that have it. The
    output is a 1x1 convolution of the nodes that no other takes, concatenated, and a norm: their number, unlike that of
    the output's channels, is another in every architecture. So each node brings its own columns of the convolution.

    Args:
        inputs: Channels of the cell before the last and of the last.
        channels: Channels of the nodes and of the output, C.
        nodes: Number of nodes, B.
        strides: Of the inputs, to get the size of the last one: 2 where the cell before the last is twice as large.
        reduction: Whether operations on the cell's inputs have a stride of 2.
        norm_cfg: The norm.
        only: The one architecture that it will be; None is any.
    """

    def __init__(
        self,
        inputs: tuple[int, int],
        channels: int,
        nodes: int,
        strides: tuple[int, int],
        reduction: bool,
        norm_cfg: dict,
        only: Cell | None = None,
    ) -> None:
        super().__init__()
        sources = range(INPUTS) if only is None else {edge.source for node in only for edge in node}
        self.entries = nn.ModuleList(
            _entry(count, channels, stride, norm_cfg) if source in sources else nn.Identity()
            for source, (count, stride) in enumerate(zip(inputs, strides, strict=True))
        )
        self.edges = nn.ModuleDict()
        for node in range(nodes):
            for side in range(2):
                for source in range(INPUTS + node):
                    for operation in OPERATIONS:
                        wanted = only is None or (only[node][side].source, only[node][side].operation) == (
                            source,
                            operation,
                        )
                        if wanted:
                            stride = 2 if reduction and source < INPUTS else 1
                            edge = build_operation(operation, channels, stride, norm_cfg)
                            self.edges[_key(node, side, source, operation)] = edge
        ends = range(nodes) if only is None else loose_ends(only)
        self.ends = nn.ModuleDict({str(node): nn.Conv2d(channels, channels, 1, bias=False) for node in ends})
        self.norm_name, norm = build_norm_layer(norm_cfg, channels)
        self.add_module(self.norm_name, norm)

    def forward(self, before: Tensor, last: Tensor, cell: Cell, drop: float = 0.0) -> Tensor:
        """Run as one architecture.

        Args:
            before: Output of the cell before the last, (N, inputs[0], H', W').
            last: Output of the last cell, (N, inputs[1], H, W).
            cell: The architecture.
            drop: Probability, in training, that an edge other than the identity gives nothing for a sample.

        Returns:
            (N, C, H, W), of a reduction cell half of H and W, rounded up.
        """
        states = [entry(x) for entry, x in zip(self.entries, (before, last), strict=True)]
        for number, node in enumerate(cell):
            total: Tensor | None = None
            for side, edge in enumerate(node):
                y = self.edges[_key(number, side, edge.source, edge.operation)](states[edge.source])
                if edge.operation != 'identity':
                    y = drop_path(y, drop, self.training)
                total = y if total is None else total + y
            assert total is not None
            states.append(total)
        ends = [self.ends[str(node)](F.relu(states[INPUTS + node])) for node in loose_ends(cell)]
        return self.get_submodule(self.norm_name)(torch.stack(ends).sum(0) if len(ends) > 1 else ends[0])


def _key(node: int, side: int, source: int, operation: str) -> str:
    return f'{node + INPUTS}_{"ab"[side]}_{source}_{operation}'


def _entry(inputs: int, channels: int, stride: int, norm_cfg: dict) -> nn.Module:
    if stride > 1:
        return FactorizedReduction(inputs, channels, norm_cfg)
    return nn.Identity() if inputs == channels else pointwise(inputs, channels, norm_cfg)
