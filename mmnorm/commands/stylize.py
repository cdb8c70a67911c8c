"""Stylize one image with a trained transformation network.

Size, transparency and orientation stay those of the image; it may be grey, of 16 bits, or of any size.
"""

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS
from torch import nn

from ..analysis.inputs import config_in
from ..cli import launch
from ..datasets.pictures import Picture, read_picture, resize_short_side, write_picture
from ..errors import UsageError
from ..files import add_trust_argument, read_weights

_PREFIX = 'network.'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='checkpoint of a config of configs/stylization')
    parser.add_argument('image', help='image to stylize')
    parser.add_argument('out', help='where the result goes; .png and .webp keep transparency, .jpg is put on white')
    parser.add_argument('--size', type=int, metavar='PIXELS', help='scale the short side to this first')
    parser.add_argument(
        '--config', help='config (default: the one that mmengine keeps in the checkpoint, if it lies beside it too)'
    )
    parser.add_argument('--device', help='e.g. cpu, cuda:1 (default: a GPU if there is one)')
    add_trust_argument(parser)
    return parser.parse_args()


def load_network(args: argparse.Namespace) -> nn.Module:
    """The network of a checkpoint, in eval mode.

    Raises:
        UsageError: If it can't be had, or is something else.
    """
    state, rest = read_weights(args.checkpoint, args.trust_checkpoint)
    cfg = _config_of(args, rest)
    settings: Any = cfg.get('model') or {}
    if settings.get('type') not in ('Stylizer', 'mmnorm.Stylizer'):
        raise UsageError(
            f'{args.checkpoint} is of a {settings.get("type")}, expected a Stylizer: train a config of '
            f'configs/stylization'
        )
    network = MODELS.build(settings.network)
    own = network.state_dict()
    given = {name.removeprefix('module.').removeprefix(_PREFIX): value for name, value in state.items()}
    lost = [name for name in own if name not in given or own[name].shape != given[name].shape]
    if lost:
        raise UsageError(
            f'{args.checkpoint} does not fit its network: {len(lost)} of {len(own)} weights are missing or of another '
            f'shape, e.g. {_PREFIX}{lost[0]}. Give the config that it was trained with by --config'
        )
    network.load_state_dict({name: given[name] for name in own})
    return network.eval()


def _config_of(args: argparse.Namespace, rest: dict) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        file = args.config
        if file is None:
            text = config_in(args.checkpoint, rest, args.trust_checkpoint)
            file = Path(folder, f'{re.sub(r"[^0-9A-Za-z_]", "_", Path(args.checkpoint).stem)}.py')
            file.write_text(text, encoding='utf-8')
        options = dict(config=str(file), trust_checkpoint=args.trust_checkpoint, launcher='none', local_rank=0)
        absent = dict.fromkeys(('cfg_options', 'norm', 'norm_scope', 'work_dir'))
        cfg, _ = launch.load_config(argparse.Namespace(**options, **absent, fuse=False))
    return cfg


@torch.no_grad()
def stylize(network: nn.Module, picture: Picture, device: str = 'cpu', size: int | None = None) -> Picture:
    """Stylize an image.

    Args:
        network: Takes and gives (N, 3, H, W), RGB from 0 to 1.
        picture: The image.
        device: Where to.
        size: Short side to which it is scaled first; None leaves it as it is.

    Returns:
        The result, with the transparency of the image.
    """
    rgb, alpha = (None if part is None else resize_short_side(part, size) for part in (picture.rgb, picture.alpha))
    assert rgb is not None
    result = network.to(device)(rgb[None].to(device))[0]
    return Picture(result.clamp(0, 1).cpu(), alpha)


def main() -> None:
    args = parse_args()
    if args.size is not None and args.size < 1:
        raise UsageError(f'--size: expected a number of pixels, got {args.size}')
    if not Path(args.out).absolute().parent.is_dir():
        raise UsageError(f'the folder of {args.out} does not exist')
    picture = read_picture(args.image, 'the image to stylize')
    network = load_network(args)
    result = stylize(network, picture, args.device or get_device(), args.size)
    write_picture(args.out, result)
    print(f'wrote {args.out}: {result.rgb.shape[2]}x{result.rgb.shape[1]}')
