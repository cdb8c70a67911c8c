"""Train any config of mmseg, mmdet or mmpretrain; the norm is whatever its norm_cfg names."""

import argparse
from urllib.error import URLError

import torch

from ..cli import checks, launch
from ..cli.defaults import add_default_arguments, add_training_defaults
from ..cli.processes import run_on_gpus
from ..cli.start import check_prefixes, check_weights, latest_checkpoint
from ..errors import UsageError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or without a value from the latest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size')
    add_default_arguments(parser)
    return parser.parse_args()


def apply_arguments(cfg, args: argparse.Namespace) -> None:
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.amp:
        if not torch.cuda.is_available():
            raise UsageError("--amp needs a GPU (mmengine's AmpOptimWrapper), and none is visible; leave it out")
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UsageError(f'--auto-scale-lr: {args.config} has no auto_scale_lr.base_batch_size to scale from')
        cfg.auto_scale_lr.enable = True


def check_start(cfg, source: str, trust: bool) -> None:
    """Look into the checkpoint that the run starts from, or goes on from."""
    resume = cfg.get('resume')
    if resume and cfg.get('load_from') is None:
        cfg.load_from = latest_checkpoint(cfg.work_dir)
    if cfg.get('load_from') is None:
        return
    checks.check_checkpoint(cfg.load_from, source, 'Give the path of an existing checkpoint.')
    checkpoint = check_weights(cfg.model, cfg.load_from, source, resume, trust)
    if resume and checkpoint is not None:
        # mmengine takes the seed from the checkpoint too, but only after the data have been shuffled with another.
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': checkpoint['meta'].get('seed')}


def main() -> None:
    args = parse_args()
    run_on_gpus('train', args)
    cfg, _ = launch.load_config(args)
    apply_arguments(cfg, args)
    add_training_defaults(cfg, args.with_, args.without)

    checks.check_data(cfg, ('train_dataloader', 'val_dataloader'))
    checks.check_evaluator(cfg, ('val_evaluator',))
    check_start(cfg, '--resume' if args.resume else 'load_from', args.trust_checkpoint)
    checks.check_pretrained(cfg)
    check_prefixes(cfg, args.trust_checkpoint)

    runner = launch.build_runner(cfg)
    try:
        runner.train()
    except (URLError, ConnectionError, TimeoutError) as error:
        raise launch.explain_download_failure(cfg, error) from None
