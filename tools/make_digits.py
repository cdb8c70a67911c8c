"""Writes scenes of handwritten digits in the layouts of well-known datasets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmnorm.datasets import LAYOUTS, LayoutConflictError, write_layout


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        arguments: Its words; those of the running process if omitted.

    Returns:
        The options; ``layouts`` holds keys of :data:`mmnorm.datasets.LAYOUTS`, each once.
    """
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
    options = parser.parse_args(arguments)
    options.size = getattr(options, 'size', None)
    options.layouts = list(LAYOUTS) if 'all' in options.layouts else list(dict.fromkeys(options.layouts))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the layouts asked for, or none of them if one cannot be written.

    Args:
        arguments: Words of the command line; those of the running process if omitted.

    Returns:
        Exit status: 0 if every layout is in place, 2 if the request was refused.
    """
    options = vars(parse_arguments(arguments))
    layouts = options.pop('layouts')
    try:
        for layout in layouts:
            write_layout(layout, **options, dry_run=True)
        for layout in layouts:
            root, written = write_layout(layout, **options)
            print(f'wrote {root}' if written else f'{root} already holds this data, nothing to do', flush=True)
    except (ValueError, LayoutConflictError, ImportError, OSError) as error:
        print(f'make_digits.py: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
