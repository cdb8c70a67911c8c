"""Build every config of the installed mmseg, mmdet and mmpretrain as it is, then with each norm (as --norm does).

Prints what fails and why, and a table. Nothing is downloaded: pretrained weights are left out, and parameters have no
data. Exit status 1 if a config with BatchNorm builds as it is and not with one of them, or if --fuse breaks one.
"""

import argparse
import fnmatch
import importlib
import importlib.util
import multiprocessing
import os
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# Before anything asks for it: text models would look for their vocabularies on the net.
os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch.overrides import TorchFunctionMode

from ..cli import checks, launch
from ..convert import sources
from ..convert.configs import set_norm
from ..convert.fusion import FusionReport, fuse, unfuse
from ..errors import UsageError
from ..registry import NORMS, name_in_config

BATCH_NORMS = ('BN', 'SyncBN', 'MMSyncBN', 'BN1d', 'BN2d', 'BN3d')
_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint)


@dataclass
class Result:
    """What became of one config.

    Attributes:
        config: Path below the folder of configs, after the codebase: 'mmseg/deeplabv3/...'.
        error: Why it does not build as it is; None if it does, 'no model' if there is nothing to build.
        num_bn: Number of BatchNorms in the model.
        failed: Why it does not build with a learned norm, by norm.
        left: Reasons for which BatchNorms stayed, with the number of layers.
        fused: Of the learned norms, how many do what follows them, and how many there are; with ``--fuse``.
        unfused: Reasons for which learned norms stay alone, with the number of layers.
    """

    config: str
    error: str | None = None
    num_bn: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    fused: tuple[int, int] = (0, 0)
    unfused: dict[str, int] = field(default_factory=dict)


class Ways(NamedTuple):
    """How a learned norm gets into a model.

    Attributes:
        norms: The norms to try.
        swap_type: The type in the norm_cfgs that are written is swapped, instead of ``--norm``.
        fuse: What follows the norms is fused into them.
    """

    norms: tuple[str, ...]
    swap_type: bool = False
    fuse: bool = False


class NoData(TorchFunctionMode):
    """Make parameters without data, on the meta device.

    ``torch.device('meta')`` does this for all tensors, and most models read numbers, such as drop rates, from some.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _FACTORIES and kwargs.get('device') is None:
            kwargs['device'] = 'meta'
        return func(*args, **kwargs)


def build(model: ConfigDict) -> torch.nn.Module:
    """The model, on the meta device if it can be made there, else on the CPU."""
    # Copies, as some constructors write into their config, and refuse what they wrote themselves.
    try:
        with NoData():
            return MODELS.build(deepcopy(model))
    except Exception:  # whatever a constructor does with numbers that are not there
        return MODELS.build(deepcopy(model))


def without_weights(node):
    """A model's config without what would be downloaded."""
    if isinstance(node, dict):
        kept = {key: without_weights(value) for key, value in node.items() if key not in ('pretrained', 'teacher_ckpt')}
        init_cfg = kept.get('init_cfg')
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            kept['init_cfg'] = None
        return type(node)(kept)
    if isinstance(node, list | tuple):
        return type(node)(without_weights(child) for child in node)
    return node


def swap_types(node, norm: str):
    """A model's config with the type of every BatchNorm in it swapped, as one would do by hand."""
    if isinstance(node, dict):
        swapped = {key: swap_types(value, norm) for key, value in node.items()}
        if swapped.get('type') in BATCH_NORMS:
            name = norm + (swapped['type'][2:] if swapped['type'].startswith('BN') else '')
            swapped['type'] = name_in_config(MODELS, name)
        return type(node)(swapped)
    if isinstance(node, list | tuple):
        return type(node)(swap_types(child, norm) for child in node)
    return node


def batch_norms(model: torch.nn.Module) -> dict[str, str | None]:
    """Names of the BatchNorms and SyncBatchNorms of a model, and why each can't be replaced, if it can't."""
    modules = {name: module for name, module in model.named_modules() if sources.kind_of(module) in ('BN', 'SyncBN')}
    return {name: sources.obstacle(module, named=False) for name, module in modules.items()}


def say(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:300]}'


def try_config(path: str, name: str, ways: Ways, known: dict) -> Result:
    """Build one config in all ways; ``known`` holds the results of models seen before."""
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        return Result(name, error=say(error), failed=dict.fromkeys(ways.norms, 'no config'))
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        return Result(name, error='no model')
    init_default_scope(cfg.get('default_scope') or name.partition('/')[0])
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    cfg.model = without_weights(cfg.model)
    key = repr(cfg.model)
    if key not in known:
        known[key] = try_model(cfg, ways)
    return Result(name, **known[key])


def try_model(cfg: Config, ways: Ways) -> dict:
    found: dict[str, Any] = dict(error=None, num_bn=0, failed={}, left=defaultdict(int))
    try:
        obstacles = batch_norms(build(cfg.model))
        found['num_bn'] = len(obstacles)
        if not obstacles:
            return found
    except Exception as error:
        found['error'] = say(error)
    for norm in ways.norms:
        changed = Config(dict(model=cfg.model))
        if ways.swap_type:
            changed.model = swap_types(cfg.model, norm)
        else:
            set_norm(changed, dict(type=norm))
        try:
            model = build(changed.model)
        except Exception as error:
            found['failed'][norm] = say(error)
            continue
        if ways.swap_type:
            continue
        for layer, obstacle in batch_norms(model).items():
            if obstacle is None:
                found['failed'][norm] = f'{layer} was not replaced'
            elif norm == ways.norms[0]:
                found['left'][obstacle] += 1
        if ways.fuse and norm not in found['failed']:
            try:
                report = fuse_and_undo(model)
            except Exception as error:
                found['failed'][norm] = f'--fuse: {say(error)}'
                continue
            # As above: what the first of the norms has, all have.
            if norm == ways.norms[0]:
                found['fused'] = len(report.fused), len(report.fused) + len(report.unfused)
                found['unfused'] = dict(Counter(report.unfused.values()))
    found['left'] = dict(found['left'])
    return found


def fuse_and_undo(model: torch.nn.Module) -> FusionReport:
    """Fuse a model, and undo that.

    Raises:
        RuntimeError: If its state dict has other names then, or its modules are not what they were.
    """
    names, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    report = fuse(model)
    if list(model.state_dict()) != names:
        raise RuntimeError('the names in the state dict have changed')
    unfuse(model)
    if [type(module) for module in model.modules()] != classes:
        raise RuntimeError('unfuse does not bring the modules back')
    return report


def try_folder(job: tuple[str, list[tuple[str, str]], Ways]) -> list[Result]:
    """The configs of one folder: many of them differ in their data only."""
    codebase, configs, ways = job
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    MMLogger.get_instance('sweep', logger_name='sweep', log_level='CRITICAL')
    importlib.import_module(codebase)
    known: dict[str, dict] = {}
    return [try_config(path, name, ways, known) for path, name in configs]


def config_folder(codebase: str) -> Path:
    checks.check_installed(codebase, 'mmnorm check')
    if codebase == 'mmdet':
        checks.check_operators('mmnorm check')
    spec = importlib.util.find_spec(codebase)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    # A checkout has them next to the package.
    for folder in (package / '.mim/configs', package.parent / 'configs'):
        if folder.is_dir():
            return folder
    raise UsageError(f'{package} has no configs; expected them in {package / ".mim/configs"}')


def find_jobs(codebases: list[str], pattern: str, ways: Ways) -> Iterator[tuple]:
    for codebase in codebases:
        root = config_folder(codebase)
        folders = defaultdict(list)
        for path in sorted(root.rglob('*.py')):
            name = f'{codebase}/{path.relative_to(root)}'
            if '_base_' not in path.parts and fnmatch.fnmatch(name, f'*{pattern}*'):
                folders[path.parent].append((str(path), name))
        for configs in folders.values():
            yield codebase, configs, ways


def report(results: list[Result], norms: Sequence[str], write: Callable[[str], object]) -> bool:
    """Write what failed with ``norms``, by reason, and the table; whether all that build with BatchNorm build so."""
    broken = {r.config: r for r in results if r.num_bn and r.failed}
    for r in broken.values():
        for norm, reason in r.failed.items():
            write(f'FAILS with {norm}: {r.config}: {reason}')

    def grouped(title: str, pairs: list[tuple[str, str]]) -> None:
        groups = defaultdict(list)
        for reason, config in pairs:
            groups[reason].append(config)
        if groups:
            write(f'\n{title}')
        for reason, configs in sorted(groups.items(), key=lambda item: -len(item[1])):
            write(f'  {len(configs)} x {reason}')
            for config in configs:
                write(f'      {config}')

    unbuilt = [(r.error, r) for r in results if r.error is not None and r.error != 'no model']
    grouped('Not built as they are, and not with ours:', [(e, r.config) for e, r in unbuilt if r.failed])
    grouped('Not built as they are, but with all of ours:', [(e, r.config) for e, r in unbuilt if not r.failed])
    left = [(reason, f'{r.config}: {n} layers') for r in results for reason, n in r.left.items()]
    grouped('BatchNorms that stay:', left)
    alone = [(reason, f'{r.config}: {n} layers') for r in results for reason, n in r.unfused.items()]
    grouped('Learned norms that stay alone with --fuse:', alone)
    fused, learned = (sum(counts) for counts in zip(*(r.fused for r in results), strict=True))
    if learned:
        write(f'\n{fused} of {learned} learned norms do what follows them')

    header = ('codebase', 'configs', 'no model', 'not built', 'built', 'have BN', *norms)
    write('\n' + ''.join(f'{title:>12}' for title in header))
    for codebase in (*sorted({r.config.partition('/')[0] for r in results}), 'all'):
        rows = [r for r in results if codebase in ('all', r.config.partition('/')[0])]
        built = [r for r in rows if r.error is None]
        have = [r for r in built if r.num_bn]
        no_model = sum(r.error == 'no model' for r in rows)
        counts = [len(rows), no_model, len(rows) - len(built) - no_model, len(built), len(have)]
        counts += [sum(norm not in r.failed for r in have) for norm in norms]
        write(f'{codebase:>12}' + ''.join(f'{count:>12}' for count in counts))
    return not broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('codebases', nargs='*', metavar='CODEBASE', help=f'{", ".join(launch.SCOPES)} (default: all)')
    parser.add_argument('--filter', default='', metavar='PATTERN', help='only configs with this in their path')
    parser.add_argument('--jobs', type=int, default=1, help='number of processes')
    parser.add_argument('--output', metavar='FILE', help='write the report there too')
    parser.add_argument(
        '--swap-type', action='store_true', help='swap the type in the norm_cfgs that are written, instead of --norm'
    )
    parser.add_argument(
        '--fuse', action='store_true', help='fuse what follows the learned norms, too, and say which of them stay alone'
    )
    parser.add_argument(
        '--norms', nargs='+', choices=list(NORMS), default=list(NORMS), metavar='NORM',
        help=f'which of {", ".join(NORMS)} (default: all)',
    )  # fmt: skip
    args = parser.parse_args()
    if args.swap_type and args.fuse:
        raise UsageError('--fuse goes with --norm, which is the default here; leave out --swap-type')
    unknown = [name for name in args.codebases if name not in launch.SCOPES]
    if unknown:
        raise UsageError(f'unknown codebase {", ".join(unknown)}; expected {", ".join(launch.SCOPES)}')
    if args.jobs < 1:
        raise UsageError(f'--jobs expects a positive number, got {args.jobs}')
    ways = Ways(tuple(args.norms), args.swap_type, args.fuse)
    jobs = list(find_jobs(args.codebases or list(launch.SCOPES), args.filter, ways))
    if not jobs:
        raise UsageError(f'--filter: no config has {args.filter!r} in its path')

    results, total = [], sum(len(configs) for _, configs, _ in jobs)
    with multiprocessing.get_context('spawn').Pool(args.jobs) if args.jobs > 1 else nullcontext() as pool:
        for done in map(try_folder, jobs) if pool is None else pool.imap_unordered(try_folder, jobs):
            results += done
            print(f'\r{len(results)}/{total}', end='', file=sys.stderr, flush=True)
    print(file=sys.stderr)
    results.sort(key=lambda r: r.config)

    lines: list[str] = []
    good = report(results, args.norms, lines.append)
    print('\n'.join(lines))
    if args.output:
        Path(args.output).write_text('\n'.join(lines) + '\n', encoding='utf-8')
    sys.exit(0 if good else 1)
