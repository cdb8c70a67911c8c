"""The queue of a sweep: what the plan has and the table has not is run, one by one, and goes on if cut."""

import math
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...engine.own_configs import PREFIX
from ...errors import UsageError
from ..commands import CONFIGS, cfg_options, train_command
from ..folders import final_name
from ..plan import Step
from ..run import Execute, append_output
from ..run import run as run_steps
from .claims import claim
from .plan import Plan, SweepRun, read_plan
from .table import POINTS, append, read_table, record_of

# A run is saved so often, to go on from there.
_SAVES = 4


def work_off(
    path: Path,
    root: Path,
    roots: Mapping[str, str],
    extra: Mapping[str, Any],
    say: Callable[[str], None] = print,
    with_: Execute = append_output,
) -> None:
    """Run what is missing from the table, and add a line for each run.

    The plan is read anew after each run: what is added to it, or put in another order, counts from then on. Several
    processes may do this by the same plan below the same ``root``; no two of them train the same run.

    Args:
        path: The plan.
        root: Work dirs go below.
        roots: Where data are on this machine, by the ``data_root`` of a config.
        extra: More settings, which belong to this machine and not to the experiment.
        say: Gets what is going on.
        with_: Runs a command.

    Raises:
        UsageError: If a run fails.
    """
    while True:
        plan = read_plan(path)
        waiting = missing(plan)
        if not waiting:
            say(f'nothing is left to run; {plan.table} has {len(read_table(plan.table))} runs')
            return
        queue = _Queue(plan, root / path.stem, roots, extra, say, with_)
        if not any(queue.take(run) for run in waiting):
            say(f'what is left to run ({len(waiting)}) is in the hands of other processes')
            return


@dataclass(frozen=True)
class _Queue:
    """What training a run of a plan takes."""

    plan: Plan
    folder: Path
    roots: Mapping[str, str]
    extra: Mapping[str, Any]
    say: Callable[[str], None]
    with_: Execute

    def take(self, run: SweepRun) -> bool:
        """Train a run unless another process does; returns whether it is done."""
        with claim(self.folder / run.folder) as ours:
            # Another process may have done it since.
            if ours and run in missing(self.plan):
                self._train(run)
        return ours

    def _train(self, run: SweepRun) -> Path:
        """Train a run, with what it starts from, and add its line if there is none; returns its last checkpoint."""
        extra = {**self.extra, **(start_settings(self._source(run)) if run.start else {})}
        work_dir, started = self.folder / run.folder, time.monotonic()
        step = step_of(run, work_dir, self.roots, extra)
        if not step.done:
            self.say(f'{time.strftime("%H:%M:%S")} {run.title}, of {len(missing(self.plan))} to run; log: {step.log}')
        run_steps([step], lambda text: None, self.with_)
        if run in missing(self.plan):
            metric = self.plan.metrics[run.group]
            record = record_of(run, metric, work_dir, time.monotonic() - started, version())
            append(self.plan.table, record)
            self.say(f'{time.strftime("%H:%M:%S")} {run.title}: {metric} {record.value:.2f}, {record.seconds:.0f} s')
        return step.result

    def _source(self, run: SweepRun) -> Path:
        """The checkpoint that it starts from: of the best of the runs that are done, else of the first."""
        done = {record.run.key: record.value for record in read_table(self.plan.table)}
        runs = [other for other in self.plan.runs if f'{other.group}/{other.norm}' == run.start]
        best = max(runs, key=lambda other: done.get(other.key, -math.inf))
        with claim(self.folder / best.folder, wait=True):
            return self._train(best)


def missing(plan: Plan) -> list[SweepRun]:
    """The runs of a plan that its table has not."""
    done = {record.run.key for record in read_table(plan.table)}
    return [run for run in plan.runs if run.key not in done]


def step_of(run: SweepRun, work_dir: Path, roots: Mapping[str, str], extra: Mapping[str, Any]) -> Step:
    """The command of a run, and what it leaves."""
    config = CONFIGS / run.config
    if not config.is_file():
        raise UsageError(f'{run.title}: there is no config {config}')
    cfg = Config.fromfile(config)
    options = {**settings_of(run, cfg), **data_settings(cfg, roots), **extra}
    # Of BN too, which otherwise starts another epoch where it goes on.
    flags = ['--with', 'exact-resume', 'atomic-checkpoints', *run.flags]
    command = train_command(f'{PREFIX}{run.config}', 1, work_dir, *flags, *cfg_options(options))
    result = work_dir / final_name(Config({'train_cfg': {'max_iters': run.iterations}}))
    return Step(run.title, command, result, work_dir / 'train.txt')


def start_settings(checkpoint: Path) -> dict[str, Any]:
    """What lets a backbone start from that of a checkpoint."""
    start = {'type': 'Pretrained', 'checkpoint': checkpoint, 'prefix': 'backbone.'}
    return {f'model.backbone.init_cfg.{key}': value for key, value in start.items()}


def data_settings(cfg: Config, roots: Mapping[str, str]) -> dict[str, Any]:
    """What lets the loaders and evaluators of a config read data from ``roots``."""
    found = {}
    for split in ('train', 'val', 'test'):
        root = cfg[f'{split}_dataloader'].dataset.get('data_root')
        if root not in roots:
            continue
        found[f'{split}_dataloader.dataset.data_root'] = roots[root]
        # COCO's evaluator reads the annotations itself.
        annotations = (cfg.get(f'{split}_evaluator') or {}).get('ann_file', '')
        if annotations.startswith(root):
            found[f'{split}_evaluator.ann_file'] = str(Path(roots[root], Path(annotations).relative_to(root)))
    return found


def settings_of(run: SweepRun, cfg: Config) -> dict[str, Any]:
    """What a run sets in its config, by dotted key; the schedule is stretched to the length of the run.

    Raises:
        UsageError: If the config does not count iterations.
    """
    length = cfg.train_cfg.get('max_iters')
    if length is None:
        raise UsageError(f'{run.config}: a sweep needs a config with train_cfg.max_iters, this one counts epochs')
    log = max(1, run.iterations // POINTS)
    found: dict[str, Any] = {
        'train_dataloader.batch_size': run.batch,
        'optim_wrapper.optimizer.lr': run.rate,
        'randomness.seed': run.seed,
        'train_cfg.max_iters': run.iterations,
        'train_cfg.val_interval': run.iterations // run.validations,
        'default_hooks.logger.interval': log,
        'log_processor.window_size': log,
        'default_hooks.checkpoint.interval': -(-run.iterations // _SAVES),
        'default_hooks.checkpoint.max_keep_ckpts': 1,
    }
    for index, scheduler in enumerate(cfg.param_scheduler):
        for key in ('begin', 'end', 'milestones'):
            if key in scheduler:
                found[f'param_scheduler.{index}.{key}'] = _stretched(scheduler[key], run.iterations / length)
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        if hook.type == 'NormRatioHook':
            found[f'custom_hooks.{index}.interval'] = log
    return {**found, **run.options}


def _stretched(iterations: int | list[int], factor: float) -> int | list[int]:
    return [round(at * factor) for at in iterations] if isinstance(iterations, list) else round(iterations * factor)


def version() -> str:
    """Of the code, as git describes it; 'unknown' outside of a checkout."""
    command = ['git', '-C', str(CONFIGS), 'describe', '--always', '--dirty']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
