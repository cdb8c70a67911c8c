"""Evaluate a checkpoint of any config of mmseg, mmdet or mmpretrain, at one scale or with --tta at several."""

import argparse

from mmengine.registry import HOOKS

from ..cli import checks, launch
from ..cli.processes import run_on_gpus
from ..cli.start import check_weights
from ..cli.tta import enable_tta
from ..errors import UsageError
from ..registry import name_in_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: several scales and flips')
    parser.add_argument(
        '--batch-average',
        type=int,
        metavar='N',
        help='take BN statistics from N training batches first, for a checkpoint of a run without BatchAverageHook',
    )
    parser.add_argument('--show-dir', help='paint predictions of test images into this folder')
    parser.add_argument('--out', help='write the metrics to this .json file')
    return parser.parse_args()


def paint_predictions(cfg, scope: str, folder: str) -> None:
    """Let the codebase's visualization hook write pictures to ``folder``."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UsageError(f'--show-dir: {cfg.filename} has no default_hooks.visualization')
    if scope == 'mmseg':
        hook.draw = True
        # Upstream's mmseg paints every interval-th batch also in a test.
        hook.interval = 1
        cfg.visualizer.save_dir = folder
    elif scope == 'mmdet':
        hook.draw = True
        hook.test_out_dir = folder
    else:
        hook.enable = True
        hook.out_dir = folder


def main() -> None:
    args = parse_args()
    run_on_gpus('test', args)
    if args.out and not args.out.endswith('.json'):
        raise UsageError(f'--out expects a .json file, got {args.out}')
    cfg, scope = launch.load_config(args)
    checks.check_checkpoint(args.checkpoint, 'the command line', 'Train one with mmnorm train, or give its path.')
    if args.batch_average is not None and args.batch_average < 1:
        raise UsageError(f'--batch-average: expected at least 1 training batch, got {args.batch_average}')
    if args.batch_average and not (cfg.get('train_dataloader') and cfg.get('train_cfg')):
        raise UsageError(f'--batch-average: {args.config} has no train_dataloader or train_cfg to train with')
    checks.check_data(cfg, ('test_dataloader', *(['train_dataloader'] if args.batch_average else [])))
    checks.check_evaluator(cfg, ('test_evaluator',))
    cfg.load_from = args.checkpoint
    if args.show_dir:
        paint_predictions(cfg, scope, args.show_dir)
    if args.batch_average:
        hook = dict(type=name_in_config(HOOKS, 'BatchAverageHook'), num_iters=args.batch_average, in_test=True)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    model = cfg.model
    if args.tta:
        enable_tta(cfg, scope)
    check_weights(model, args.checkpoint, 'the command line', trust=args.trust_checkpoint)

    metrics = launch.build_runner(cfg, launch.EvaluationRunner).test()
    if args.out:
        import mmengine

        mmengine.dump({key: float(value) for key, value in metrics.items()}, args.out)
