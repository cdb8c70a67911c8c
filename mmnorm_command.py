"""The command ``mmnorm``: its subcommands in a line each, and what starts them.

It stands beside the package, not in it, since importing the package imports PyTorch: ``mmnorm --help`` answers at once.
"""

import argparse
import importlib
import importlib.util
import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

# Each is a module of mmnorm.commands with a function main(), which reads sys.argv.
COMMANDS = {
    'train': 'train a config of mmseg, mmdet, mmpretrain or mmnorm, with any norm',
    'test': 'evaluate a checkpoint, at one scale or several',
    'configs': "list the configs that come with mmnorm, mmnorm::...",
    'digits': 'write scenes of handwritten digits in the layouts of ADE20K, Cityscapes, COCO and ImageNet',
    'convert': 'convert checkpoints: published SN and ILM ones, or to plain norms and back',
    'analyze': 'draw what SN, EN and ILM have learned, from any checkpoint',
    'stylize': 'stylize an image with a trained transformation network',
    'complexity': 'count parameters, FLOPs, memory and time of a config with each norm',
    'statistics': 'test checkpoints with their moving average and with batch averages',
    'experiments': "list, show, run and compare the papers' experiments",
    'pipeline': 'pretrain on the digits, then finetune for segmentation and detection, on a CPU',
    'sweep': 'run sets of short trainings by a plan, sum up and draw what came of them',
    'check': 'build every config of the installed mmseg, mmdet and mmpretrain with each norm',
}  # fmt: skip

# What brings the packages that commands need and the layers don't.
_OPENMMLAB = "OpenMMLab: pip install 'mmnorm[onedl]', or upstream's with 'mmnorm[upstream]'"
_DIGITS, _ANALYSIS = "pip install 'mmnorm[digits]'", "pip install 'mmnorm[analysis]'"
_INSTALL = {
    'torch': 'pip install torch',
    'mmengine': _OPENMMLAB,
    'mmcv': _OPENMMLAB,
    'cv2': _DIGITS,
    'pycocotools': _DIGITS,
    'matplotlib': _ANALYSIS,
    'numpy': 'pip install numpy',
    'sklearn': _ANALYSIS,
}


def main() -> None:
    """Run the subcommand that the command line names."""
    parser = argparse.ArgumentParser(
        prog='mmnorm',
        usage='mmnorm COMMAND ...',
        description='Learned normalization for OpenMMLab.',
        epilog=f'commands:\n{_listed()}\n\nmmnorm COMMAND --help says what each takes.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='store_true', help='print the version and exit')
    words = sys.argv[1:]
    if words and not words[0].startswith('-'):
        _start(words[0], words[1:], parser)
    elif parser.parse_args().version:
        print(f'mmnorm {_version()}')
    else:
        parser.print_help()
        # As of a command line that says too little, unless help was asked for, which ends before.
        sys.exit(2)


def _listed() -> str:
    width = max(map(len, COMMANDS))
    return '\n'.join(f'  {name:{width}}  {text}' for name, text in COMMANDS.items())


def _start(name: str, words: list[str], parser: argparse.ArgumentParser) -> None:
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f'; did you mean {near[0]}?' if near else f'; expected one of {", ".join(COMMANDS)}'
        parser.error(f'there is no command {name!r}{hint}')
    # What the parsers of the commands call themselves.
    sys.argv = [f'mmnorm {name}', *words]
    try:
        from mmnorm.errors import run

        run(importlib.import_module(f'mmnorm.commands.{name}').main)
    except ModuleNotFoundError as error:
        missing = (error.name or '').partition('.')[0]
        if missing not in _INSTALL:
            raise
        print(f'error: mmnorm {name} needs {missing}, which is not installed: {_INSTALL[missing]}', file=sys.stderr)
        sys.exit(2)


def _version() -> str:
    # Found without importing the package.
    spec = importlib.util.find_spec('mmnorm')
    assert spec is not None
    assert spec.origin is not None
    return runpy.run_path(str(Path(spec.origin).with_name('version.py')))['__version__']


if __name__ == '__main__':
    main()
