"""From a row to command lines: what `mmnorm train`, `mmnorm test` and `mmnorm analyze` are called with."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..cli import checks
from ..engine.own_configs import PREFIX, config_folder
from .catalogue import Experiment

CONFIGS = config_folder()


@dataclass(frozen=True)
class Variant:
    """How a row is run, where not as it stands.

    Attributes:
        code: With the authors' code's values in place of the paper's.
        gpus: On so many GPUs; None is the row's number.
        seed: Of the run; None leaves it to the config.
    """

    code: bool = False
    gpus: int | None = None
    seed: int | None = None

    def gpus_of(self, row: Experiment) -> int:
        """Number of GPUs that the row is run on."""
        code = row.code if self.code else None
        return self.gpus or (code.gpus if code and code.gpus else row.gpus)

    def settings(self, row: Experiment) -> dict[str, Any]:
        """What is set in the row's config, by dotted key."""
        found: dict[str, Any] = {}
        if row.images is not None and row.kind == 'train':
            found['train_dataloader.batch_size'] = row.images
        found.update(row.set)
        if self.code and row.code is not None:
            found.update(row.code.set)
        if self.seed is not None:
            found['randomness.seed'] = self.seed
        return found

    def flags(self, row: Experiment) -> tuple[str, ...]:
        """Options of `mmnorm train` besides."""
        return row.code.flags if self.code and row.code is not None else ()


AS_IT_STANDS = Variant()


@dataclass(frozen=True)
class Start:
    """What a backbone starts from: a network that was trained to classify.

    Attributes:
        checkpoint: Its checkpoint.
        config: Its config, which says how it saw images.
    """

    checkpoint: Path
    config: Config

    def settings(self, cfg: Config) -> dict[str, Any]:
        """What makes the network of ``cfg`` start from it: the weights, and the colours that they were trained on.

        What new layers have of BN because the weights of a hub do, they have no more.
        """
        found: dict[str, Any] = {}
        pretrained = checks.pretrained_settings(cfg)
        for key, _ in pretrained:
            found[f'{key}.checkpoint'] = str(self.checkpoint)
            found[f'{key}.prefix'] = 'backbone.'
        if any(not checks.is_local(source['checkpoint']) for _, source in pretrained):
            found.update({f'{path}.init_ratios': None for path in _started_norms(cfg.model, 'model')})
        seen, ours = self.config.data_preprocessor, cfg.model.data_preprocessor
        for key in ('mean', 'std'):
            if list(ours[key]) != list(seen[key]):
                found[f'model.data_preprocessor.{key}'] = list(seen[key])
        if ours.bgr_to_rgb != seen.to_rgb:
            found['model.data_preprocessor.bgr_to_rgb'] = seen.to_rgb
        return found


def _started_norms(node: Any, path: str) -> Iterator[str]:
    """Where a norm_cfg says how the mix starts."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, Mapping):
        if node.get('init_ratios'):
            yield path
        for key, child in node.items():
            yield from _started_norms(child, f'{path}.{key}')


def read_config(row: Experiment, variant: Variant = AS_IT_STANDS, start: Start | None = None) -> Config:
    """The config of a row, with what the row sets in it."""
    cfg = Config.fromfile(CONFIGS / row.config)
    cfg.merge_from_dict({**(start.settings(cfg) if start else {}), **variant.settings(row)})
    return cfg


def own_name(row: Experiment) -> str:
    """The config of a row by its name: 'mmnorm::...'."""
    return f'{PREFIX}{row.config}'


def train_command(config: str, gpus: int, work_dir: Path, *options: str) -> list[str]:
    """`mmnorm train`, on one or several GPUs; goes on where it stopped."""
    return ['mmnorm', 'train', config, *_gpus(gpus), '--work-dir', shown(work_dir), '--resume', *options]


def test_command(config: str, checkpoint: Path, gpus: int, out: Path, *options: str) -> list[str]:
    """`mmnorm test`, on one or several GPUs; metrics go to ``out``."""
    words = ['mmnorm', 'test', config, shown(checkpoint), *_gpus(gpus)]
    return [*words, '--work-dir', shown(out.with_suffix('')), '--out', shown(out), *options]


def figure_command(words: Sequence[str], sources: Sequence[Path], out: Path, *options: str) -> list[str]:
    """`mmnorm analyze`.

    Args:
        words: The command and its options.
        sources: Checkpoints.
        out: The picture.
        *options: More options.
    """
    command = ['mmnorm', 'analyze', words[0], *map(shown, sources)]
    return [*command, *words[1:], *options, '--out', shown(out)]


def cfg_options(settings: Mapping[str, Any]) -> list[str]:
    """``--cfg-options KEY=VALUE ...``; nothing if there are none."""
    return ['--cfg-options', *(f'{key}={_text(value)}' for key, value in settings.items())] if settings else []


def shell_line(command: Sequence[str]) -> str:
    """A command as one types it."""
    return shlex.join(command)


def _gpus(number: int) -> list[str]:
    return [] if number == 1 else ['--gpus', str(number)]


def _text(value: Any) -> str:
    return f'[{",".join(map(_text, value))}]' if isinstance(value, list | tuple) else str(value)


def shown(path: Path) -> str:
    """Relative to the current folder where it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
