"""The options of ``mmnorm analyze doctor``."""

import argparse

from ...cli import launch
from ...cli.defaults import add_default_arguments
from ...errors import UsageError
from ...files import add_trust_argument
from ..html_page import check_page_name
from .diagnose import BATCHES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is looked at, on what, and where it is told."""
    parser.add_argument('source', metavar='SOURCE', help=f'{launch.CONFIG_HELP}; or a checkpoint of a run')
    parser.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help='weights, where SOURCE is a config')
    parser.add_argument('--config', help='of the checkpoint, where that does not say it or is not trusted to')
    parser.add_argument('--out', metavar='FILE', help='write a page too; .html')
    parser.add_argument('--strict', action='store_true', help='exit status 1 if there are findings (else 0)')
    parser.add_argument(
        '--gpus', type=int, default=1, metavar='N', help='what training runs on; nothing is started (default: 1)'
    )
    parser.add_argument(
        '--batches', type=int, default=BATCHES, metavar='N', help='training batches to run (default: %(default)s)'
    )
    parser.add_argument('--batch', type=int, metavar='N', help="images of a batch (default: the config's)")
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='PIXELS',
        help='run random images of this side, or height and width, instead of the data (default without data: the '
        "size of the config's crop)",
    )
    parser.add_argument(
        '--evaluate',
        type=int,
        metavar='N',
        help='test the checkpoint twice, with its running statistics and with those of N training batches',
    )
    text = 'as in mmnorm train'
    parser.add_argument('--cfg-options', nargs='+', action=launch.DictAction, metavar='KEY=VALUE', help=text)
    parser.add_argument('--norm', help=text)
    parser.add_argument('--norm-scope', metavar='NAMES', help=text)
    add_default_arguments(parser)
    add_trust_argument(parser)
    # What load_config needs besides.
    parser.set_defaults(launcher='none', local_rank=0)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise a UsageError for an option that is out of its range, before anything is built."""
    if args.out:
        check_page_name(args.out)
    if args.shape is not None and (len(args.shape) > 2 or min(args.shape) < 1):
        raise UsageError(f'--shape: expected a side, or height and width, in pixels, got {args.shape}')
    for name in ('gpus', 'batches', 'batch', 'evaluate'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f'--{name}: expected at least 1, got {value}')
