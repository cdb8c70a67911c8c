"""The plan of a sweep: which norms are trained at which rates with which seeds, read from a YAML file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import UsageError

_PLAN_KEYS = {'config', 'norms', 'set', 'flags', 'metric', 'sets'}
_SET_KEYS = {'name', 'batch', 'iterations', 'validations', 'norms', 'rates', 'seeds', 'start', *_PLAN_KEYS} - {'sets'}
_NORM_KEYS = {'set', 'flags'}


@dataclass(frozen=True)
class SweepRun:
    """One run of a plan.

    Attributes:
        group: Name of the set that it is of.
        norm: Name of the norm in the plan.
        config: Below ``configs``.
        batch: Images a batch.
        iterations: Length; the config's schedule is stretched to it.
        rate: Learning rate.
        seed: Of the run.
        validations: How often it is evaluated, the last time at the end.
        options: What else is set in the config, by dotted key.
        flags: More words for `mmnorm train`.
        start: Set and norm ('pretraining/BN') whose run of the same plan gives the backbone's weights; None: no run.
    """

    group: str
    norm: str
    config: str
    batch: int
    iterations: int
    rate: float
    seed: int
    validations: int
    options: Mapping[str, Any]
    flags: tuple[str, ...]
    start: str | None = None

    @property
    def key(self) -> str:
        """What it computes, as text: the same for two runs that differ in nothing but their names."""
        parts = [self.config, self.batch, self.iterations, self.rate, self.seed, dict(self.options), list(self.flags)]
        return json.dumps(parts + [self.start] * (self.start is not None), sort_keys=True)

    @property
    def title(self) -> str:
        """For people: set, norm, rate and seed."""
        return f'{self.group}/{self.norm}, rate {self.rate:g}, seed {self.seed}'

    @property
    def folder(self) -> str:
        """Where it goes, below the folder of the sweep; no two runs share one."""
        short = hashlib.sha256(self.key.encode()).hexdigest()[:8]
        return f'{self.group}/{self.norm}/rate_{self.rate:g}_seed_{self.seed}_{short}'


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        path: The file.
        metrics: What runs report, by set, e.g. 'accuracy/top1'.
        runs: In the order in which they are run, each once.
    """

    path: Path
    metrics: Mapping[str, str]
    runs: tuple[SweepRun, ...]

    @property
    def table(self) -> Path:
        """The file that has a line for each run that is done."""
        return self.path.with_suffix('.jsonl')


def read_plan(path: Path) -> Plan:
    """Read a plan.

    .. code-block:: yaml

        config: cifar/resnet20_bn_cifar10_sweep.py  # below configs
        metric: accuracy/top1
        norms:                                      # a name, and what it means in the config
          BN: {}
          EN: {set: {model.backbone.norm_cfg.type: EN}, flags: [--fuse]}
        sets:
          - name: batch_2
            batch: 2
            iterations: 8000
            rates: [0.001, 0.003]                   # or by norm: {BN: [0.003], EN: [0.001]}
            seeds: [0, 1]
            norms: [BN, EN]                         # default: all
            set: {optim_wrapper.optimizer.weight_decay: 0}

    A set may also have its own ``config`` and ``metric``, and a ``start``: ``pretraining/BN`` lets the backbone start
    from the weights of the run of BN in the set ``pretraining``, of the best of them where there are several;
    ``pretraining`` alone from that of the same norm.

    Raises:
        UsageError: If the file is missing, is no such plan, names a norm that it does not say anything about, or has
            two runs of the same set, norm, rate and seed that differ in anything else.
    """
    if not path.is_file():
        raise UsageError(f'plan not found: {path.absolute()}')
    try:
        read = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise UsageError(f'{path} is not YAML: {error}') from None
    plan = _mapping(read, f'{path}', _PLAN_KEYS, ('config', 'metric', 'norms', 'sets'))
    runs: dict[str, SweepRun] = {}
    for number, entry in enumerate(plan['sets']):
        for run in _runs_of(entry, plan, f'{path}: set {number}'):
            runs.setdefault(run.key, run)
    names: dict[str, SweepRun] = {}
    for run in runs.values():
        if names.setdefault(run.title, run) is not run:
            raise UsageError(f'{path}: two runs that differ are called "{run.title}"; give set or norm another name')
    for run in runs.values():
        if run.start and not any(f'{other.group}/{other.norm}' == run.start for other in runs.values()):
            raise UsageError(f'{path}: "{run.title}" starts from {run.start}, and there is no such run in the plan')
    metrics = {entry['name']: entry.get('metric', plan['metric']) for entry in plan['sets']}
    return Plan(path, metrics, tuple(runs.values()))


def _runs_of(entry: Any, plan: Mapping[str, Any], where: str) -> list[SweepRun]:
    entry = _mapping(entry, where, _SET_KEYS, ('name', 'batch', 'iterations', 'rates'))
    names = entry.get('norms') or list(plan['norms'])
    unknown = [name for name in names if name not in plan['norms']]
    if unknown:
        known = ', '.join(plan['norms'])
        raise UsageError(f'{where} ({entry["name"]}): no norm {", ".join(unknown)} in the plan; it has {known}')
    rates = entry['rates']
    if not isinstance(rates, Mapping):
        rates = dict.fromkeys(names, rates)
    longest = max((len(rates.get(name, ())) for name in names), default=0)
    runs = []
    for seed in entry.get('seeds', [0]):
        # The first rate of every norm before the second of any.
        for index in range(longest):
            for name in names:
                if index < len(rates.get(name, ())):
                    runs.append(_run(entry, plan, name, _number(rates[name][index], where), seed))
    return runs


def _run(entry: Mapping[str, Any], plan: Mapping[str, Any], name: str, rate: float, seed: int) -> SweepRun:
    norm = _mapping(plan['norms'][name] or {}, f'norm {name}', _NORM_KEYS, ())
    sources = (plan, norm, entry)
    options = {key: value for source in sources for key, value in (source.get('set') or {}).items()}
    for key, value in options.items():
        if isinstance(value, Mapping):
            raise UsageError(f'{entry["name"]}/{name}: {key} has keys below it; give each with dots, {key}.KEY: VALUE')
    flags = tuple(str(word) for source in sources for word in source.get('flags') or ())
    config, start = entry.get('config', plan['config']), entry.get('start')
    return SweepRun(
        group=entry['name'],
        norm=name,
        config=config,
        batch=entry['batch'],
        iterations=entry['iterations'],
        rate=rate,
        seed=seed,
        validations=entry.get('validations', 1),
        options=options,
        flags=flags,
        start=f'{start}/{name}' if start and '/' not in start else start,
    )


def _number(value: Any, where: str) -> float:
    try:
        # YAML reads 1e-3 as text.
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f'{where}: a rate must be a number, got {value!r}') from None


def _mapping(value: Any, where: str, allowed: set[str], needed: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f'{where}: expected keys and values, got {value!r}')
    unknown, missing = sorted(set(value) - allowed), [key for key in needed if key not in value]
    if unknown:
        raise UsageError(f'{where}: unknown {", ".join(unknown)}; there is {", ".join(sorted(allowed))}')
    if missing:
        raise UsageError(f'{where}: {", ".join(missing)} is missing')
    return value
