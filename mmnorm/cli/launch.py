"""From the command line to a Runner: what the commands share that read configs."""

import argparse
import os
import os.path as osp
from copy import deepcopy

import torch
from mmengine.config import Config, DictAction
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..convert.configs import parse_norm, set_norm
from ..convert.custom_imports import import_mmnorm
from ..convert.starts import with_start
from ..engine.own_configs import PREFIX, config_path
from ..errors import UsageError
from ..files import add_trust_argument
from . import checks
from .defaults import add_hook
from .own_reader import use_own_reader
from .processes import add_gpus_argument

SCOPES = ('mmseg', 'mmdet', 'mmpretrain')
CONFIG_HELP = 'config file, or mmnorm::..., mmseg::..., mmdet::..., mmpretrain::...'
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that train and test share, under the names that OpenMMLab's tools use."""
    parser.add_argument('config', help=CONFIG_HELP)
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_dataloader.batch_size=4; '
        'a list is key="[a,b]", and quotes keep spaces out of trouble',
    )
    parser.add_argument(
        '--norm',
        metavar='NORM',
        help='put EN, SN or ILM in place of every BatchNorm and SyncBatchNorm of the model, wherever it comes from; '
        'with arguments in quotes, e.g. "EN(reduction=16)". SN and EN start next to BN where the weights are those of '
        'BN, unless init_ratios says otherwise. The config that is dumped into the work dir says the same',
    )
    parser.add_argument(
        '--norm-scope',
        metavar='NAMES',
        help='limit --norm to these parts of the model, e.g. backbone,roi_head.bbox_head',
    )
    parser.add_argument(
        '--fuse',
        action='store_true',
        help='let SN, EN, ILM and their like do the residual sums and activations that follow them, in the same pass: '
        'faster, same results to rounding, same checkpoints. The config that is dumped has a FuseHook for it',
    )
    add_trust_argument(parser)
    add_gpus_argument(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # Given by torch.distributed.launch, not by people.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> tuple[Config, str]:
    """The config with the options of the command line, and the codebase (scope) it is written for.

    From here on mmengine reads checkpoints as data, or with ``--trust-checkpoint`` runs them.

    Raises:
        UsageError: If the file, one of its bases, or the codebase is missing, or ``--norm`` does not fit.
    """
    use_own_reader(args.trust_checkpoint)
    cfg = _read_config(args.config)
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (TypeError, KeyError, IndexError) as error:
            raise UsageError(f'--cfg-options does not fit {args.config}: {error}') from None
    _apply_norm(cfg, args)
    if args.fuse:
        import_mmnorm(cfg)
        add_hook(cfg, 'FuseHook')
    scope = cfg.get('default_scope') or _scope_of_model(cfg)
    if scope is None:
        raise UsageError(f'{args.config} has no default_scope; expected one of {", ".join(SCOPES)}')
    cfg.default_scope = scope
    checks.check_codebase(cfg, scope)

    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config.rpartition('::')[2]))[0])
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    _adapt_to_machine(cfg)
    if scope == 'mmpretrain':
        _collate_as_mmpretrain(cfg)
    return cfg, scope


def _read_config(path: str) -> Config:
    if path.startswith(PREFIX):
        try:
            path = str(config_path(path))
        except FileNotFoundError as error:
            raise UsageError(str(error)) from None
        read = Config.fromfile
    elif '::' in path:
        # get_config would install what is missing.
        checks.check_installed(path.partition('::')[0], path)
        read = get_config
    else:
        if not osp.isfile(path):
            raise UsageError(
                f'config not found: {osp.abspath(path)}. Expected a file, or the name of an installed config such as '
                f'mmnorm::deeplab_en_r50.py or mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py'
            )
        read = Config.fromfile
    try:
        return read(path)
    except ModuleNotFoundError as error:
        raise UsageError(f'{path} builds on a codebase that is not installed: {error}') from None
    except (SyntaxError, OSError, AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(f'{path} cannot be read: {error}') from None


def _apply_norm(cfg: Config, args: argparse.Namespace) -> None:
    """Let the model have the norm of ``--norm``; the config says so from here on."""
    if args.norm is None:
        if args.norm_scope is not None:
            raise UsageError('--norm-scope says where --norm is put; give --norm too')
        return
    names = [name.strip() for name in (args.norm_scope or '').split(',')]
    try:
        given = parse_norm(args.norm)
        norm = with_start(cfg, given, args.trust_checkpoint)
        set_norm(cfg, norm, [name for name in names if name])
    except ValueError as error:
        raise UsageError(f'--norm: {error}') from None
    if norm != given:
        print_log(
            f'--norm: the weights are those of BatchNorm, so {norm["type"]} starts next to BN, '
            f'init_ratios={norm["init_ratios"]}; say init_ratios=None for an even start',
            logger='current',
        )


def _scope_of_model(cfg: Config) -> str | None:
    """The codebase of the model's class; configs that name classes rather than strings have no default_scope."""
    model = cfg.get('model') or {}
    model_type = model.get('model_type', model.get('type'))
    path = model_type if isinstance(model_type, str) else getattr(model_type, '__module__', '')
    codebase = path.partition('.')[0]
    return codebase if codebase in SCOPES else None


def _adapt_to_machine(cfg: Config) -> None:
    """Without a GPU, distributed runs use gloo, which mmengine's launcher cannot start by itself."""
    if torch.cuda.is_available() or cfg.launcher == 'none':
        return
    if cfg.launcher != 'pytorch':
        raise UsageError(f'--launcher {cfg.launcher} needs GPUs, and none is visible; on CPUs use --launcher pytorch')
    if 'RANK' not in os.environ:
        raise UsageError(
            '--launcher pytorch expects the environment of torchrun; use tools/dist_train.sh or, without it, --gpus N'
        )
    if not torch.distributed.is_initialized():
        # mmengine calls torch.cuda.set_device on its way to init_process_group.
        torch.distributed.init_process_group('gloo')
    wrapper = dict(type='MMDistributedDataParallel', broadcast_buffers=cfg.get('broadcast_buffers', False))
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.setdefault('model_wrapper_cfg', wrapper)
    cfg.model_wrapper_cfg.setdefault('device_ids', None)


def _collate_as_mmpretrain(cfg: Config) -> None:
    """Mmpretrain's configs leave out what its own tools fill in."""
    defaults = dict(pin_memory=True, collate_fn=dict(type='default_collate'))
    for name in _LOADERS:
        if cfg.get(name) is not None:
            cfg[name] = {**deepcopy(defaults), **cfg[name]}


class EvaluationRunner(Runner):
    """Leaves the config that is in the work dir.

    Most often that is the training's, which the next test and ``mmnorm analyze`` read; a test's own may have another
    model, that of ``--tta``. The folder of each test's log has its config as well.
    """

    def dump_config(self) -> None:
        """Write the config into the work dir, unless there is one of this name."""
        if self.cfg.filename is None or not osp.exists(osp.join(self.work_dir, osp.basename(self.cfg.filename))):
            super().dump_config()


def build_runner(cfg: Config, runner: type[Runner] = Runner) -> Runner:
    """The Runner that ``cfg`` asks for, else one of the class that is given."""
    return runner.from_cfg(cfg) if 'runner_type' not in cfg else RUNNERS.build(cfg)


def explain_download_failure(cfg: Config, error: OSError) -> UsageError:
    """What to say where weights named by a URL can't be fetched."""
    settings = checks.pretrained_settings(cfg)
    remote = {key: start['checkpoint'] for key, start in settings if not checks.is_local(start['checkpoint'])}
    sources = ', '.join(f'{name} (from {key})' for key, name in remote.items()) or 'the weights'
    choices = f' {checks.start_choices(*remote)}' if remote else ''
    return UsageError(f'could not download {sources}: {getattr(error, "reason", error)}.{choices}')
