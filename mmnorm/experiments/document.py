"""docs/experiments.md and what ``show`` says of a row, from experiments.yaml."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .catalogue import Catalogue, Experiment, Setting
from .commands import read_config
from .properties import run_properties

TEMPLATE = Path(__file__).with_name('preface.md')


def describe(catalogue: Catalogue, row: Experiment) -> str:
    """A row in words: where it stands, the paper's figures, what is here, what differs."""
    paper = catalogue.papers[row.source]
    lines = [
        f'{row.id}: {row.row}',
        f'{paper["title"]} ({paper["version"]}), {row.table.name}, {row.table.where}: {row.table.title}',
    ]
    if row.paper:
        lines.append(f'paper: {_figures(catalogue, row.paper)}')
    if row.here:
        lines.append(f'here: {_figures(catalogue, row.here)}')
    if row.state == 'not built':
        lines.append(f'not built: {row.why}')
    if row.same:
        lines.append(f'the same run as {row.same}')
    if row.start:
        lines.append(f'starts from {row.start}')
    run = catalogue.run_of(row)
    if run.kind == 'train':
        built = run_properties(run, read_config(run))
        lines.append(f'as built: {", ".join(f"{key} {value}" for key, value in built.items() if value is not None)}')
    lines += [f'differs: {text}' for text in row.differs]
    for setting in settings_of(catalogue, row):
        if setting.why:
            lines.append(f'differs: {setting.setting}: {setting.states} in the paper; {setting.here}; {setting.why}')
    if row.code is not None:
        lines.append(f"authors' code (--code): {row.code.note}")
    return '\n'.join(lines)


def settings_of(catalogue: Catalogue, row: Experiment) -> list[Setting]:
    """The settings that a row has."""
    return [s for s in catalogue.settings if s.rows and row.id in {r.id for r in catalogue.matching(s.rows)}]


def document(catalogue: Catalogue) -> str:
    """The whole of docs/experiments.md."""
    parts = [TEMPLATE.read_text(encoding='utf-8').rstrip()]
    for paper, facts in catalogue.papers.items():
        parts.append(f'## {facts["title"]}')
        if paper != 'own':
            parts.append(f'{facts["version"]}.')
        parts += [_table(catalogue, rows) for _, rows in catalogue.tables() if rows[0].source == paper]
    parts.append('## Settings')
    parts.append(
        "What a paper states, what its authors' code has where that is known, what is here, and why. The tests hold "
        'the built network and run of every row against it.'
    )
    for paper, facts in catalogue.papers.items():
        entries = [setting for setting in catalogue.settings if setting.paper == paper]
        if entries:
            parts.append(f'### {facts["title"]}, {facts["version"]}')
            parts.append(_settings(entries))
    return '\n\n'.join(parts) + '\n'


def _table(catalogue: Catalogue, rows: Sequence[Experiment]) -> str:
    table = rows[0].table
    heading = f'### {table.name}: {table.title}'
    metrics = [name for name in catalogue.metrics if any(name in (*row.paper, *row.here) for row in rows)]
    shared = [text for text in rows[0].differs if all(text in row.differs for row in rows)]
    head = [
        'row',
        'experiment',
        'config',
        *(catalogue.metrics[name].label for name in metrics),
        'here, and what differs',
    ]
    lines = [_row(head), _row(['---'] * 3 + ['---:'] * len(metrics) + ['---'])]
    for row in rows:
        figures = [str(row.paper.get(name, '')) for name in metrics]
        own = [text for text in row.differs if text not in shared]
        lines.append(_row([row.row, f'`{row.id}`', _what(row), *figures, _here(catalogue, row, own)]))
    notes = []
    words = {row.code.note for row in rows if row.code is not None}
    if len(words) == 1:
        notes.append(f"Authors' code, by `--code`: {words.pop()}.")
    notes += [f'{text[0].upper()}{text[1:]}.' for text in shared]
    where = '' if table.where == 'this project' else f'{table.where}. '
    text = f'{where}{_run(rows)}'.strip()
    return '\n'.join([heading, '', *([text, ''] if text else []), *lines, *([''] if notes else []), *notes])


def _run(rows: Sequence[Experiment]) -> str:
    trained = [row for row in rows if row.kind == 'train']
    if not trained:
        return ''
    pairs = {(row.gpus, row.images) for row in trained}
    if len(pairs) == 1:
        gpus, images = pairs.pop()
        return f'{gpus} GPU{"s" if gpus > 1 else ""} of {images} image{"s" if images != 1 else ""}.'
    return ''


def _what(row: Experiment) -> str:
    if row.kind == 'not built':
        return 'not built'
    if row.kind == 'same':
        return f'as `{row.same}`'
    if row.kind == 'draw':
        assert row.draw is not None
        command = row.draw.split()[0]
        drawn = {'curves': 'compare --curves', 'bars': 'compare --picture'}.get(command, f'mmnorm analyze {command}')
        return f'`{drawn}` of {", ".join(f"`{name}`" for name in row.of)}'
    if row.kind == 'count':
        return 'counted'
    if row.kind == 'test':
        return f'`configs/{row.config}`, tested on what `{row.test}` trained'
    options = ''.join(f' `{key.rpartition(".")[2]}={value}`' for key, value in row.set.items())
    return f'`configs/{row.config}`{options}'


def _here(catalogue: Catalogue, row: Experiment, differs: Iterable[str]) -> str:
    words = []
    if row.here:
        words.append(_figures(catalogue, row.here))
    if row.why:
        words.append(row.why)
    return '; '.join([*words, *differs])


def _figures(catalogue: Catalogue, figures) -> str:
    named = [f'{catalogue.metrics[name].label} {value}' for name, value in figures.items() if name != 'note']
    return ', '.join([*named, *([figures['note']] if 'note' in figures else [])])


def _settings(entries: Sequence[Setting]) -> str:
    lines = [_row(['setting', 'section', 'paper', "authors' code", 'here', 'why']), _row(['---'] * 6)]
    for s in entries:
        lines.append(_row([s.setting, str(s.where), s.states, s.code or '', s.here, s.why]))
    return '\n'.join(lines)


def _row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'
