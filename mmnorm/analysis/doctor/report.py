"""A diagnosis as text, and as a page of HTML."""

import textwrap
from collections import Counter
from html import escape
from pathlib import Path

from ...version import __version__
from ..html_page import write_page
from .batch_weight import bn_weight
from .case import Case, Norm
from .diagnose import Diagnosis
from .findings import NAMED, Finding
from .statistics import drift

_WIDTH = 100
_COLUMNS = ('', 'layer', 'norm', 'after', 'size', 'images', 'positions', 'mode', 'ratios', 'means off', 's.d. off')


def summary_of(diagnosis: Diagnosis) -> str:
    """What was looked at and how much was found, in a line."""
    kinds = Counter(norm.kind for norm in diagnosis.norms.values())
    norms = ', '.join(f'{count} {kind}' for kind, count in kinds.items())
    count = len(diagnosis.norms)
    found = len(diagnosis.findings)
    said = 'No finding' if not found else '1 finding' if found == 1 else f'{found} findings'
    return f'{diagnosis.title}: {said} in {count} norm{"" if count == 1 else "s"} ({norms}).'


def as_text(diagnosis: Diagnosis) -> str:
    """For the terminal."""
    lines = [summary_of(diagnosis)]
    for number, finding in enumerate(diagnosis.findings, 1):
        lines += ['', f'{number}. {finding.title}', _filled(finding.found), _filled(f'{finding.why} ({finding.link})')]
        lines += [f'   > {line}' for line in finding.remedies]
    if diagnosis.notes:
        lines += ['', *(f'Note: {note}' for note in diagnosis.notes)]
    return '\n'.join(lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent='   ', subsequent_indent='   ', break_on_hyphens=False)


def write_diagnosis(diagnosis: Diagnosis, path: str | Path) -> None:
    """Write the page: the findings, then what was seen of each norm."""
    body = [_section(number, finding) for number, finding in enumerate(diagnosis.findings, 1)]
    if diagnosis.notes:
        items = ''.join(f'<li>{escape(note)}</li>' for note in diagnosis.notes)
        body.append(f'<h2>Notes</h2><ul class="note">{items}</ul>')
    body.append(_table(diagnosis.case))
    write_page(path, 'The norms of a network', summary_of(diagnosis), '\n'.join(body))


def _section(number: int, finding: Finding) -> str:
    layers = ''
    if len(finding.layers) > NAMED:
        names = ', '.join(map(escape, finding.layers))
        layers = f'<details><summary class="note">all {len(finding.layers)} layers</summary>{names}</details>'
    lines = escape('\n'.join(finding.remedies))
    where = f'<p class="note">{escape(finding.link)} of mmnorm {__version__}</p>' if finding.link else ''
    return (
        f'<h2>{number}. {escape(finding.title)}</h2><p>{escape(finding.found)}</p><p>{escape(finding.why)}</p>'
        f'<pre>{lines}</pre>{where}{layers}'
    )


def _table(case: Case) -> str:
    head = ''.join(f'<th>{name}</th>' for name in _COLUMNS)
    rows = []
    for number, norm in enumerate(case.norms.values(), 1):
        images, positions = case.values(norm) or ('', '')
        distance = drift(norm) if case.from_data else None
        far = ('', '') if distance is None else (f'{distance[0]:.2f}', f'x {distance[1]:.2f}')
        cells = [str(number), norm.name, norm.kind, norm.conv, 'x'.join(map(str, norm.size)), images, positions]
        cells += ['train' if norm.training else 'eval', _ratios(norm), *far]
        rows.append(f'<tr>{"".join(map(_cell, cells))}</tr>')
    return (
        f'<h2>Norms</h2><p class="note">Images and positions: of the smallest call in a training batch. Ratios: '
        f'average over samples (SN: over mean and variance). Off: running statistics '
        f'against those of the data, the median channel, in standard deviations and as a factor.</p>'
        f'<table><tr>{head}</tr>{"".join(rows)}</table>'
    )


def _cell(value: object) -> str:
    text = str(value)
    kind = ' class="number"' if text.removeprefix('x ').replace('.', '').isdigit() else ''
    return f'<td{kind}>{escape(text)}</td>'


def _ratios(norm: Norm) -> str:
    if norm.ratios is None:
        return ''
    text = ', '.join(f'{n} {float(v):.2f}' for n, v in zip(norm.pool, norm.ratios.mean(0), strict=True))
    return text if bn_weight(norm) is None or norm.uses_batch else f'{text} (running)'
