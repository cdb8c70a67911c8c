"""Costs as a table, in the form of EN's Tables 2 and 3 and ILM's Table 8, beside what the papers say of them."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..errors import UsageError
from .costs import Cost

FORMATS = ('.json', '.csv', '.md')

# ResNets with the classifier of ImageNet, by the parameters that they have with BN.
_RESNETS = {11_689_512: 18, 21_797_672: 34, 25_557_032: 50, 44_549_160: 101, 60_192_808: 152}
# ILM paper, Table 8: percent of parameters added; key features by group, and by instance.
_ILM_ADDED = {18: (0.015, 2.792), 34: (0.015, 2.462), 50: (0.086, 20.696), 101: (0.086, 20.313), 152: (0.086, 20.178)}
# EN paper: millions of parameters.
_EN_PARAMETERS = {50: 25.91}


class CostTable:
    """The costs of a network with several norms.

    Args:
        title: What it is of.
        costs: One a norm; the first is what the others are compared with.
        facts: Whatever else belongs to the figures, for the .json file.
    """

    def __init__(self, title: str, costs: Sequence[Cost], facts: dict) -> None:
        self.title = title
        self.costs = list(costs)
        self.facts = facts
        self._papers = [_paper(cost, self.costs[0]) for cost in self.costs]

    @property
    def notes(self) -> list[str]:
        """What the papers say, and why it differs where it does."""
        return [paper[1] for paper in self._papers if paper]

    def columns(self) -> list[str]:
        """Headings."""
        first = self.costs[0].norm
        columns = ['norm', 'parameters', f'over {first}', 'FLOPs', 'in norms', 'kept for backward']
        if self.costs[0].forward_seconds is not None:
            columns += ['forward', f'/ {first}', 'training', f'/ {first}']
        return columns + (['paper'] if self.notes else [])

    def rows(self) -> list[list[str]]:
        """Cells, as text."""
        first, rows = self.costs[0], []
        for cost, paper in zip(self.costs, self._papers, strict=True):
            added = '' if cost is first else f'{_added(cost, first):+.3f} %'
            row = [cost.norm, _millions(cost.parameters), added, _giga(cost.flops), _giga(cost.norm_flops)]
            row.append(f'{cost.activation_bytes / 2**20:.1f} MiB')
            for seconds, base in (
                (cost.forward_seconds, first.forward_seconds),
                (cost.step_seconds, first.step_seconds),
            ):
                if seconds is not None and base is not None:
                    row += [_duration(seconds), f'{seconds / base:.2f}']
            rows.append(row + ([paper[0] if paper else ''] if self.notes else []))
        return rows

    def print(self) -> None:
        """Onto the screen."""
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for i, column in enumerate(self.columns()):
            table.add_column(column, justify='right' if i else 'left', no_wrap=True)
        for row in self.rows():
            table.add_row(*row)
        console = Console()
        # Into a file or pipe rich would cut at 80 columns.
        console = console if console.is_terminal else Console(width=240)
        console.print(self.title, table, *self.notes, sep='\n', highlight=False, markup=False)

    def save(self, path: str) -> None:
        """Into a .json, .csv or .md file; the first two have plain numbers."""
        file = Path(path)
        if file.suffix == '.md':
            file.write_text(self._markdown(), encoding='utf-8')
        elif file.suffix == '.csv':
            with file.open('w', newline='', encoding='utf-8') as out:
                records = self._records()
                writer = csv.DictWriter(out, records[0])
                writer.writeheader()
                writer.writerows(records)
        else:
            content = {'title': self.title, **self.facts, 'costs': self._records(), 'notes': self.notes}
            file.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')

    def _records(self) -> list[dict]:
        records = []
        for cost, paper in zip(self.costs, self._papers, strict=True):
            record = asdict(cost)
            del record['settings']
            records.append({**record, 'paper': paper[0] if paper else None})
        return records

    def _markdown(self) -> str:
        columns = self.columns()
        lines = [columns, ['---'] + ['---:'] * (len(columns) - 1), *self.rows()]
        table = '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
        return '\n\n'.join([self.title, table, *self.notes]) + '\n'


def check_table_names(paths: Sequence[str]) -> None:
    """Raise a UsageError for a file that cannot be written, before anything is measured."""
    for path in paths:
        if Path(path).suffix not in FORMATS:
            raise UsageError(f'--out: expected a file that ends in {", ".join(FORMATS)}, got {path}')
        if not Path(path).absolute().parent.is_dir():
            raise UsageError(f'--out: the folder of {path} does not exist; create it first')


def _paper(cost: Cost, first: Cost) -> tuple[str, str] | None:
    """What a paper has in the same place, and a sentence about it; None if it has nothing."""
    depth = _RESNETS.get(first.parameters)
    if depth is None or first.norm != 'BN':
        return None
    if cost.settings == dict(type='EN') and depth in _EN_PARAMETERS:
        theirs = f'{_EN_PARAMETERS[depth]:.2f} M'
        return theirs, (
            f'EN: the column of parameters in the EN paper, {theirs} for ResNet-{depth}, does not follow from its own '
            f'formula, which gives {_millions(cost.parameters)}; the formula is what is built.'
        )
    by_instance = cost.settings == dict(type='ILM', key_group_size=1)
    if cost.settings != dict(type='ILM') and not by_instance:
        return None
    stated, ours = _ILM_ADDED[depth][by_instance], _added(cost, first)
    if round(ours, 3) == stated:
        verdict = 'as here'
    else:
        verdict = f'here {ours:.4f} %, which the paper cuts where this table rounds'
    keys = 'by instance' if by_instance else 'by group'
    return f'+{stated:.3f} %', (
        f'{cost.norm}: ILM paper, Table 8, ResNet-{depth}, key features {keys}: +{stated:.3f} %, {verdict}.'
    )


def _added(cost: Cost, first: Cost) -> float:
    return 100 * (cost.parameters - first.parameters) / first.parameters


def _millions(number: int) -> str:
    return f'{number / 1e6:.2f} M' if number >= 1e6 else f'{number / 1e3:.1f} K'


def _giga(number: float) -> str:
    return f'{number / 1e9:.3f} G' if number >= 1e7 else f'{number / 1e6:.3f} M'


def _duration(seconds: float) -> str:
    return f'{seconds:.2f} s' if seconds >= 1 else f'{seconds * 1e3:.3g} ms'
