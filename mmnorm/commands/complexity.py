"""What a config costs with each norm: parameters, FLOPs, memory between forward and backward, and time.

The norms of the config are replaced as --norm of mmnorm train does it; it does not matter which of them it has.
"""

import argparse

import torch
from mmengine.device import get_device
from mmengine.registry import MODELS

from ..analysis.cost_table import CostTable, check_table_names
from ..analysis.costs import SIZES, measure_costs
from ..analysis.norm_variants import PLAIN, parse_variant, with_norm
from ..cli import launch
from ..convert.configs import with_torch_sync_bn
from ..errors import UsageError
from ..files import add_trust_argument


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help=launch.CONFIG_HELP)
    parser.add_argument(
        '--norms',
        nargs='+',
        default=['BN', 'GN', 'SN', 'EN', 'ILM'],
        metavar='NORM',
        help=f'{", ".join(PLAIN)}, SN, EN, ILM; the last three with arguments in quotes, e.g. "EN(reduction=16)". '
        f'BN is always there (default: BN GN SN EN ILM)',
    )
    parser.add_argument('--norm-scope', metavar='NAMES', help='as in mmnorm train, e.g. backbone,neck')
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='PIXELS',
        help='side of the images, or height and width (default: 224 for mmpretrain, 512 for mmseg, 800 1344 for mmdet)',
    )
    parser.add_argument('--batch', type=int, default=2, help='images of a batch (default: %(default)s)')
    parser.add_argument(
        '--repeats', type=int, default=5, help='rounds of the times, 0 for no times (default: %(default)s)'
    )
    parser.add_argument('--device', help='e.g. cpu (default: the GPU if there is one)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=launch.DictAction, metavar='KEY=VALUE', help='as in mmnorm train'
    )
    add_trust_argument(parser)
    parser.add_argument('--out', nargs='+', default=[], metavar='FILE', help='.json, .csv or .md; several if you like')
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> dict[str, dict]:
    """The norms by their names, once everything else is known to be in order."""
    check_table_names(args.out)
    if args.shape is not None and (len(args.shape) > 2 or min(args.shape) < 1):
        raise UsageError(f'--shape: expected a side, or height and width, in pixels, got {args.shape}')
    if args.batch < 1:
        raise UsageError(f'--batch: expected at least 1 image, got {args.batch}')
    if args.repeats < 0:
        raise UsageError(f'--repeats: expected 0 (no times) or more, got {args.repeats}')
    try:
        return {text: parse_variant(text) for text in ('BN', *args.norms)}
    except ValueError as error:
        raise UsageError(f'--norms: {error}') from None


def pick_device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or get_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f'--device {name}: {str(error).splitlines()[0]}; expected e.g. cpu or cuda:0') from None
    return device


def main() -> None:
    args = parse_args()
    settings = check_arguments(args)
    device = pick_device(args.device)
    # What load_config needs besides; the norms come in one after another.
    own = dict(norm=None, norm_scope=None, fuse=False, launcher='none', work_dir=None, local_rank=0)
    cfg, scope = launch.load_config(argparse.Namespace(**{**vars(args), **own}))
    if not cfg.get('model'):
        raise UsageError(f'{args.config} has no model')

    torch.manual_seed(0)
    network = MODELS.build(with_torch_sync_bn(cfg.model))
    names = [name.strip() for name in (args.norm_scope or '').split(',') if name.strip()]
    networks = {text: with_norm(network, norm, names).to(device) for text, norm in settings.items()}
    height, width = SIZES[scope] if args.shape is None else (args.shape * 2)[:2]
    x = torch.randn(args.batch, 3, height, width, device=device)
    try:
        costs = measure_costs(networks, settings, scope, x, args.repeats)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(
            f'{args.config} does not run on {args.batch} random images of {height}x{width}: {error}. '
            f'Give another --shape or --batch.'
        ) from error

    facts = dict(config=args.config, batch=args.batch, height=height, width=width, repeats=args.repeats)
    title = f'{args.config}, {height}x{width}'
    if args.repeats:
        title += f'; times of a batch of {args.batch} on {device.type}, median of {args.repeats}'
    if hasattr(network, 'rpn_head'):
        title += '; the heads run on random boxes, the same for all'
    table = CostTable(title, costs, {**facts, 'device': device.type})
    table.print()
    for path in args.out:
        table.save(path)
        print(f'wrote {path}')
