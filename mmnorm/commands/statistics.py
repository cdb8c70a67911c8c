"""Test checkpoints with their moving average and with batch averages (SN, arXiv v1, Section 2.1 and Fig. 8)."""

import argparse
from pathlib import Path

from ..cli import checks, launch
from ..cli.processes import run_on_gpus
from ..cli.start import check_weights
from ..errors import UsageError
from ..experiments.statistics import compare_statistics, markdown


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_arguments(parser)
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT', help='of a run without BatchAverageHook')
    parser.add_argument(
        '--samples',
        nargs='+',
        default=['50000', 'all'],
        metavar='N',
        help='training images, or all (default: 50000 all)',
    )
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the table there too, as Markdown')
    return parser.parse_args()


def main() -> None:
    """Print a table: a line a checkpoint, a column a way to come by its statistics."""
    args = parse_args()
    run_on_gpus('statistics', args)
    wrong = [text for text in args.samples if text != 'all' and not (text.isdigit() and int(text))]
    if wrong:
        raise UsageError(f'--samples: expected numbers of images, or all; got {", ".join(wrong)}')
    cfg, _ = launch.load_config(args)
    for checkpoint in args.checkpoints:
        checks.check_checkpoint(checkpoint, 'the command line', 'Train one with mmnorm train, or give its path.')
        check_weights(cfg.model, checkpoint, 'the command line')
    checks.check_data(cfg, ('train_dataloader', 'test_dataloader'))
    checks.check_evaluator(cfg, ('test_evaluator',))
    samples = [None if text == 'all' else int(text) for text in args.samples]
    table = markdown(compare_statistics(launch.build_runner(cfg), args.checkpoints, samples))
    print(table)
    if args.out:
        args.out.write_text(table, encoding='utf-8')
