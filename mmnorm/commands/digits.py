"""Write scenes of handwritten digits in the layouts of well-known data sets: real images, no download."""

import argparse

from ..datasets import LAYOUTS, LayoutConflictError, write_layout
from ..errors import UsageError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('layouts', nargs='+', choices=[*LAYOUTS, 'all'], help='which layouts to write')
    parser.add_argument('--out', default='data/digits', help='folder that gets one folder a layout')
    parser.add_argument('--train', type=int, default=400, help='number of training images')
    parser.add_argument('--val', type=int, default=100, help='number of validation images')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        default=argparse.SUPPRESS,
        help='size of every image in pixels (default: 128 128, and 128 256 for cityscapes)',
    )
    parser.add_argument('--seed', type=int, default=0, help='which dataset; the same seed gives the same files')
    parser.add_argument('--overwrite', action='store_true', help='replace what this tool wrote there earlier')
    options = parser.parse_args()
    options.size = getattr(options, 'size', None)
    options.layouts = list(LAYOUTS) if 'all' in options.layouts else list(dict.fromkeys(options.layouts))
    return options


def main() -> None:
    """Write the layouts asked for, or none of them if one cannot be written."""
    options = vars(parse_args())
    layouts = options.pop('layouts')
    try:
        for layout in layouts:
            write_layout(layout, **options, dry_run=True)
        for layout in layouts:
            root, written = write_layout(layout, **options)
            print(f'wrote {root}' if written else f'{root} already holds this data, nothing to do', flush=True)
    except (ValueError, LayoutConflictError, ImportError, OSError) as error:
        raise UsageError(str(error)) from None
