"""The micro search space of ENAS (arXiv 1802.03268, Section 2.3): what a cell is, in numbers, in text and in files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UsageError

OPERATIONS = ('sep_conv_3x3', 'sep_conv_5x5', 'avg_pool_3x3', 'max_pool_3x3', 'identity')
# A cell's own inputs: what the cell before the last and the last one gave.
INPUTS = 2
_EXAMPLE = '0:identity+1:sep_conv_3x3/2:max_pool_3x3+0:identity//0:avg_pool_3x3+1:identity/2:sep_conv_5x5+1:identity'
_EXPECTED = (
    f'expected the normal cell, //, the reduction cell, in each its nodes between /, and of a node two inputs with '
    f'their operations, e.g. {_EXAMPLE!r}, or the .json file that a test of a search writes'
)


@dataclass(frozen=True)
class Edge:
    """An input of a node, and what is done to it.

    Attributes:
        source: 0 and 1 are the cell's inputs, 2 is its first node, and so on.
        operation: One of :data:`OPERATIONS`.
    """

    source: int
    operation: str


# A node is the sum of its two edges; a cell has B nodes.
Cell = tuple[tuple[Edge, Edge], ...]


@dataclass(frozen=True)
class Genotype:
    """An architecture: the cell that keeps the size, and the one that halves it.

    Attributes:
        normal: B nodes of two edges.
        reduction: As many.
    """

    normal: Cell
    reduction: Cell

    @property
    def nodes(self) -> int:
        """B, the number of nodes of a cell."""
        return len(self.normal)

    def __str__(self) -> str:
        return '//'.join(
            '/'.join('+'.join(f'{edge.source}:{edge.operation}' for edge in node) for node in cell)
            for cell in (self.normal, self.reduction)
        )


def loose_ends(cell: Cell) -> list[int]:
    """The nodes that no other takes as input, by number from 0: they are the output of the cell."""
    used = {edge.source - INPUTS for node in cell for edge in node}
    return [node for node in range(len(cell)) if node not in used]


def genotype_of(choices: Sequence[Sequence[Sequence[int]]]) -> Genotype:
    """The architecture of the numbers that a controller draws.

    Args:
        choices: (2, B, 4): of the normal and the reduction cell, and each node, both sources, then both operations.
    """
    cells = [
        tuple((Edge(a, OPERATIONS[p]), Edge(b, OPERATIONS[q])) for a, b, p, q in nodes) for nodes in choices
    ]  # fmt: skip
    return Genotype(*cells)


def read_genotype(given: Any, nodes: int | None = None) -> Genotype:
    """The architecture that a config gives.

    Args:
        given: A text as ``str(genotype)`` gives it, a .json file with such a text under ``genotype``, or a Genotype.
        nodes: How many nodes a cell has to have; None is any number.

    Raises:
        UsageError: If it is none.
    """
    found = given if isinstance(given, Genotype) else _parse(given)
    if nodes is not None and found.nodes != nodes:
        raise UsageError(f'genotype {str(found)!r} has cells of {found.nodes} nodes, expected {nodes} as nodes= says')
    return found


def _parse(given: Any) -> Genotype:
    if not isinstance(given, str) or not given:
        raise UsageError(f'genotype: {_EXPECTED}, got {given!r}')
    text = _read(given) if given.endswith('.json') else given
    cells = [cell.split('/') for cell in text.replace(' ', '').split('//')]
    if len(cells) != 2:
        raise UsageError(f'genotype {text!r} has {len(cells)} cells between //: {_EXPECTED}')
    normal, reduction = (tuple(_node(words, number, text) for number, words in enumerate(cell)) for cell in cells)
    if len(normal) != len(reduction):
        raise UsageError(
            f'genotype {text!r}: its normal cell has {len(normal)} nodes and its reduction cell {len(reduction)}; '
            f'expected as many in both'
        )
    return Genotype(normal, reduction)


def _node(words: str, number: int, text: str) -> tuple[Edge, Edge]:
    edges = [_edge(word, number, text) for word in words.split('+')]
    if len(edges) != 2:
        raise UsageError(f'genotype {text!r}: node {words!r} has {len(edges)} inputs. {_EXPECTED.capitalize()}')
    return edges[0], edges[1]


def _edge(word: str, number: int, text: str) -> Edge:
    source, _, operation = word.partition(':')
    last = INPUTS + number - 1
    if not source.isdecimal() or int(source) > last:
        raise UsageError(
            f'genotype {text!r}: {word!r} of node {number + INPUTS} has the input {source!r}; expected 0 or 1, the '
            f"cell's inputs, or the number of an earlier node, at most {last}, then a colon and an operation"
        )
    if operation not in OPERATIONS:
        raise UsageError(
            f'genotype {text!r}: {word!r} has the operation {operation!r}; expected one of {", ".join(OPERATIONS)}'
        )
    return Edge(int(source), operation)


def _read(path: str) -> str:
    try:
        found = json.loads(Path(path).read_text(encoding='utf-8'))
    except OSError as error:
        raise UsageError(f'genotype: {path} cannot be read: {error.strerror}. {_EXPECTED.capitalize()}') from None
    except ValueError:
        raise UsageError(f'genotype: {path} is no JSON. {_EXPECTED.capitalize()}') from None
    text = found.get('genotype') if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise UsageError(f"genotype: {path} has no text under 'genotype'. {_EXPECTED.capitalize()}")
    return text
