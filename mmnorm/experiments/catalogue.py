"""experiments.yaml, read and checked: what the papers did, which config does it here, and what differs."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError

FILE = Path(__file__).with_name('experiments.yaml')
STATES = ('built', 'not built')
_TABLE_KEYS = {'id', 'title', 'where', 'rows'}


@dataclass(frozen=True)
class Metric:
    """A figure of a paper, and where a run reports it.

    Attributes:
        label: What a table calls it.
        log: Its key in the metrics that the codebase reports; None if it is not reported by a run.
        factor: What makes the paper's unit of it.
        complement: The paper's figure is this less the reported one: an error in place of an accuracy.
        tta: Whether it is of a test at several scales.
        lower: Whether lower is better.
        counted: Whether it is counted on the network, not trained for.
    """

    label: str
    log: str | None = None
    factor: float = 1
    complement: float | None = None
    tta: bool = False
    lower: bool = False
    counted: bool = False

    def convert(self, reported: float) -> float:
        """The paper's figure from what a run reports."""
        value = self.factor * reported
        return value if self.complement is None else self.complement - value


@dataclass(frozen=True)
class AuthorsCode:
    """What the authors' code has where it differs from the paper.

    Attributes:
        set: Settings of the config, for --cfg-options.
        flags: Options of `mmnorm train`.
        gpus: Number of GPUs.
        note: In words, also what cannot be set, and what came of it there.
    """

    set: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    gpus: int | None = None
    note: str = ''


@dataclass(frozen=True)
class Experiment:
    """A row of a table, or a curve.

    It is one of: a training (``config``), a test of another row's checkpoint (``test``), a figure of other rows'
    (``draw``), a count (``count``), or not built.

    Attributes:
        id: Of the paper, the table and the row: 'sn/table2/bn-8x32'.
        row: What the paper calls it.
        norm: The norm that it is about, as registered or as the paper names it.
        data: The data set; None where there is none.
        config: Below configs; '' where nothing is run.
        gpus: Number of GPUs.
        images: Images a GPU.
        set: Settings of the config besides, for --cfg-options.
        code: What the authors' code has in place of the paper's.
        start: The row whose checkpoint the backbone starts from.
        test: The row whose checkpoint is tested.
        batch_average: Take BN's statistics over so many training images before the test.
        same: The row that is the same run; what is run and compared is that one.
        draw: The figure: 'curves' or 'bars' of `mmnorm experiments compare`, or a command of `mmnorm analyze`, with its
            options.
        of: Rows that the figure is of; patterns stand for all that match.
        epochs: Epochs whose checkpoints the figure is of, or 'all'; the last if nothing is said.
        count: What is counted: 'layer' or 'network'.
        paper: The paper's figures, by metric; text where there is no number.
        here: What came of it here, by metric, with 'note' for words.
        differs: What differs from the paper, and why.
        why: Why it is not built.
        table: The table that it is of.
    """

    id: str
    row: str
    norm: str
    data: str | None = None
    config: str = ''
    gpus: int = 1
    images: int | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    code: AuthorsCode | None = None
    start: str | None = None
    test: str | None = None
    batch_average: int | None = None
    same: str | None = None
    draw: str | None = None
    of: tuple[str, ...] = ()
    epochs: tuple[int, ...] | str | None = None
    count: str | None = None
    state: str = 'built'
    why: str = ''
    paper: Mapping[str, Any] = field(default_factory=dict)
    here: Mapping[str, Any] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    table: 'Table' = field(repr=False, compare=False, kw_only=True)

    @property
    def kind(self) -> str:
        """'not built', 'same', 'draw', 'count', 'test' or 'train'."""
        if self.state == 'not built':
            return self.state
        for kind in ('same', 'draw', 'count', 'test'):
            if getattr(self, kind) is not None:
                return kind
        return 'train'

    @property
    def source(self) -> str:
        """The paper."""
        return self.id.partition('/')[0]


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper.

    Attributes:
        id: Of the paper and the table: 'sn/table2'.
        title: What it is of.
        where: Its section.
    """

    id: str
    title: str
    where: str

    @property
    def name(self) -> str:
        """As the paper names it: 'Table 2', 'Fig. 4'."""
        name = self.id.partition('/')[2]
        for prefix, word in {'table': 'Table', 'fig': 'Fig.'}.items():
            if name.startswith(prefix):
                return f'{word} {name.removeprefix(prefix)}'
        return {'text': 'Text', 'passing': 'In passing'}.get(name, name)


@dataclass(frozen=True)
class Setting:
    """A setting: what the paper states, what the authors' code has, what is here.

    Attributes:
        setting: What it is.
        paper: The paper.
        where: Its section.
        states: What it states.
        code: What the authors' code has; None if that is not known.
        here: What is here.
        why: Why it differs.
        rows: Patterns of the rows that have it.
        check: What the built network and run of those rows have (:mod:`.properties`).
    """

    setting: str
    paper: str
    where: str
    states: str
    here: str
    code: str | None = None
    why: str = ''
    rows: tuple[str, ...] = ()
    check: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """All experiments.

    Attributes:
        papers: Title and version of each.
        metrics: By name.
        experiments: By id, in the order of the file.
        settings: What the papers state of how they trained and tested.
    """

    papers: Mapping[str, Mapping[str, str]]
    metrics: Mapping[str, Metric]
    experiments: Mapping[str, Experiment]
    settings: tuple[Setting, ...]

    def __getitem__(self, name: str) -> Experiment:
        """The experiment of this id.

        Raises:
            UsageError: If there is none. It names the nearest.
        """
        if name not in self.experiments:
            near = get_close_matches(name, self.experiments, n=3, cutoff=0.4)
            raise UsageError(
                f'no experiment is called {name!r}; nearest: {", ".join(near) or "none"}. '
                f'All of them: mmnorm experiments list'
            )
        return self.experiments[name]

    def run_of(self, experiment: Experiment) -> Experiment:
        """The experiment itself, or the one that is the same run."""
        return self.run_of(self[experiment.same]) if experiment.same else experiment

    def matching(self, patterns: Iterable[str]) -> list[Experiment]:
        """Experiments by id, table ('sn/table2') or pattern ('sn/table2/sn-*'), in the order of the file, each once.

        Raises:
            UsageError: If a pattern matches nothing.
        """
        found: set[str] = set()
        for pattern in patterns:
            names = {name for name in self.experiments if _matches(name, pattern)}
            found |= names or {self[pattern].id}
        return [experiment for name, experiment in self.experiments.items() if name in found]

    def select(
        self,
        paper: str | None = None,
        table: str | None = None,
        norm: str | None = None,
        data: str | None = None,
        state: str | None = None,
    ) -> list[Experiment]:
        """Experiments that are of this paper, table ('2', 'table2', 'fig4'), norm, data set and state."""

        def wanted(experiment: Experiment) -> bool:
            _, name, _ = experiment.id.split('/')
            return all(
                (
                    paper is None or experiment.source == paper,
                    table is None or table in (name, name.removeprefix('table')),
                    norm is None or experiment.norm.lower() == norm.lower(),
                    data is None or experiment.data == data,
                    state is None or experiment.state == state,
                )
            )

        return [experiment for experiment in self.experiments.values() if wanted(experiment)]

    def tables(self) -> Iterator[tuple[Table, list[Experiment]]]:
        """Each table with its rows."""
        by_table: dict[str, list[Experiment]] = {}
        for experiment in self.experiments.values():
            by_table.setdefault(experiment.table.id, []).append(experiment)
        for rows in by_table.values():
            yield rows[0].table, rows


class Figure(float):
    """A number that is written as it stands in the file: 76.0, not 76; 6.70, not 6.7."""

    text: str

    def __new__(cls, text: str) -> 'Figure':
        figure = super().__new__(cls, text)
        figure.text = text
        return figure

    def __str__(self) -> str:
        return self.text


_SafeLoader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


class _Loader(_SafeLoader):
    pass


_Loader.add_constructor('tag:yaml.org,2002:float', lambda loader, node: Figure(loader.construct_scalar(node)))


@cache
def catalogue() -> Catalogue:
    """The experiments of experiments.yaml."""
    return read(FILE)


def read(path: Path) -> Catalogue:
    """Read a file of experiments.

    Raises:
        ValueError: If something in it is not as it has to be.
    """
    content = yaml.load(path.read_text(encoding='utf-8'), _Loader)
    metrics = {name: Metric(**entry) for name, entry in content['metrics'].items()}
    experiments: dict[str, Experiment] = {}
    for entry in content['tables']:
        table = Table(entry['id'], entry['title'], entry['where'])
        shared = {key: value for key, value in entry.items() if key not in _TABLE_KEYS}
        for row in entry['rows']:
            experiment = _experiment(table, shared, row)
            if experiment.id in experiments:
                raise ValueError(f'{path}: there are two of {experiment.id}')
            experiments[experiment.id] = experiment
    settings = tuple(map(_setting, content.get('settings', ())))
    found = Catalogue(content['papers'], metrics, experiments, settings)
    for experiment in experiments.values():
        _check(found, experiment)
    return found


def _experiment(table: Table, shared: Mapping[str, Any], row: Mapping[str, Any]) -> Experiment:
    entry = {**shared, **row}
    where = f'{table.id}/{row.get("id")}'
    known = {field.name for field in fields(Experiment)} - {'table'}
    unknown = entry.keys() - known
    if unknown:
        raise ValueError(f'{where}: unknown key {", ".join(sorted(unknown))}; expected {", ".join(sorted(known))}')
    entry['id'] = where
    entry['set'] = {**shared.get('set', {}), **row.get('set', {})}
    entry['differs'] = (*shared.get('differs', ()), *row.get('differs', ()))
    code = entry.get('code')
    if code is not None:
        code = {**shared.get('code', {}), **code}
        code['set'] = {**shared.get('code', {}).get('set', {}), **code.get('set', {})}
        entry['code'] = AuthorsCode(**{**code, 'flags': tuple(code.get('flags', ()))})
    entry['of'] = tuple(entry.get('of', ()))
    if isinstance(entry.get('epochs'), list):
        entry['epochs'] = tuple(entry['epochs'])
    return Experiment(**entry, table=table)


def _setting(entry: Mapping[str, Any]) -> Setting:
    # Also where YAML sees a number.
    words = {key: str(value) for key, value in entry.items() if key not in ('rows', 'check') and value is not None}
    return Setting(**words, rows=tuple(entry.get('rows', ())), check=entry.get('check', {}))


def _check(found: Catalogue, experiment: Experiment) -> None:
    def refuse(what: str) -> None:
        raise ValueError(f'{experiment.id}: {what}')

    if experiment.source not in found.papers:
        refuse(f'no paper is called {experiment.source}')
    if experiment.state not in STATES:
        refuse(f'state is one of {", ".join(STATES)}, got {experiment.state!r}')
    if (experiment.state == 'not built') != bool(experiment.why):
        refuse('a row that is not built, and no other, says why')
    if experiment.kind in ('train', 'test') and not experiment.config:
        refuse('it has no config')
    for metric in (*experiment.paper, *experiment.here):
        if metric not in found.metrics and metric != 'note':
            refuse(f'no metric is called {metric}')
    for name in (experiment.start, experiment.test, experiment.same):
        if name is not None and name not in found.experiments:
            refuse(f'there is no {name}')
    for pattern in experiment.of:
        if not any(_matches(name, pattern) for name in found.experiments):
            refuse(f'nothing matches {pattern}')


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(f'{pattern}/')
