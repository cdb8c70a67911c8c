"""Tables on the screen and files with results."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Table:
    """Rows in sections, under one heading each.

    Attributes:
        title: What it shows.
        columns: Names of the columns.
        sections: Heading and rows of each; an empty heading is left out.
    """

    title: str
    columns: Sequence[str]
    sections: list[tuple[str, list[list[str]]]] = field(default_factory=list)

    def markdown(self) -> str:
        rows = [list(self.columns)]
        for heading, section in self.sections:
            rows += ([[f'**{heading}**']] if heading else []) + section
        rows = [row + [''] * (len(self.columns) - len(row)) for row in rows]
        widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            '| '
            + ' | '.join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
            + ' |'
            for row in rows
        ]
        ruler = '| ' + ' | '.join('-' * (w - 1) + (':' if i else '-') for i, w in enumerate(widths)) + ' |'
        return '\n'.join([f'{self.title}\n', lines[0], ruler, *lines[1:], ''])

    def print(self) -> None:
        try:
            from rich.console import Console
            from rich.table import Table as RichTable
        except ImportError:
            print(self.markdown())
            return
        table = RichTable()
        for i, column in enumerate(self.columns):
            table.add_column(column, justify='right' if i else 'left', no_wrap=True)
        for heading, rows in self.sections:
            if heading:
                table.add_row(heading, style='bold')
            for row in rows:
                table.add_row(*row)
            table.add_section()
        # Into a file or pipe rich would cut at 80 columns.
        console = Console()
        console = console if console.is_terminal else Console(width=240)
        console.print(self.title, table, sep='\n', highlight=False)


def duration(seconds: float) -> str:
    return f'{seconds:.2f} s' if seconds >= 1 else f'{seconds * 1e3:.3g} ms'


def number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.2f}'


def save(out: Path, name: str, content: dict, rows: list[dict], tables: list[Table]) -> None:
    """Write NAME.json with everything, NAME.csv with a row a measurement, and NAME.md with the tables."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f'{name}.json').write_text(json.dumps(content, indent=1) + '\n')
    with (out / f'{name}.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (out / f'{name}.md').write_text('\n'.join(table.markdown() for table in tables))
