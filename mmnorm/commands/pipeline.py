"""Pretrain, finetune, evaluate: classification with EN, then segmentation and detection from its checkpoint.

All on the built-in digits, on a CPU, with mmnorm train and mmnorm test. Each network is also trained from scratch
by the same schedule; a table shows both early in training, at its end, and tested at several scales.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

from ..cli import checks
from ..cli.processes import run_step
from ..engine.own_configs import PREFIX
from ..errors import UsageError

STARTS = ('finetuned', 'scratch')


@dataclass(frozen=True)
class Step:
    """A task of the line.

    Attributes:
        task: Its name, which is that of its folder.
        config: Below configs/pipeline.
        data_root: Below the folder of the digits.
        metric: Key of what is compared, in the metrics that the codebase reports.
        label: What the table calls it.
        percent: What makes percent of it.
        ann_file: What the evaluator reads, below ``data_root``.
    """

    task: str
    config: str
    data_root: str
    metric: str
    label: str
    percent: int = 1
    ann_file: str | None = None

    @property
    def name(self) -> str:
        """What a command takes for its config."""
        return f'{PREFIX}pipeline/{self.config}'

    def options(self, digits: Path, iterations: int | None) -> list[str]:
        """For --cfg-options: where the data is, and the length of the schedule."""
        root = digits / self.data_root
        options = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')]
        if self.ann_file:
            options += [f'{split}_evaluator.ann_file={root / self.ann_file}' for split in ('val', 'test')]
        if iterations is not None:
            options += [
                f'train_cfg.max_iters={iterations}',
                f'train_cfg.val_interval={max(iterations // 4, 1)}',
                f'default_hooks.checkpoint.interval={iterations}',
                f'param_scheduler.0.end={iterations}',
            ]
        return options

    def train(self, work_dir: Path, options: list[str]) -> tuple[Path, dict[int, float]]:
        """Train the network.

        Returns:
            Its last checkpoint, and the metric in percent by iteration.
        """
        work_dir.mkdir(parents=True, exist_ok=True)
        run_step(work_dir / 'train.txt', 'train', self.name, '--work-dir', work_dir, '--cfg-options', *options)
        # One folder a run, named by time.
        log = max(work_dir.glob('*/vis_data/scalars.json'))
        entries = [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
        curve = {entry['step']: self.percent * entry[self.metric] for entry in entries if self.metric in entry}
        return Path((work_dir / 'last_checkpoint').read_text(encoding='utf-8').strip()), curve

    def test(self, checkpoint: Path, work_dir: Path, options: list[str]) -> float:
        """The metric in percent at several scales, flipped and not where the codebase does that."""
        out = work_dir / 'tta.json'
        arguments = [self.name, checkpoint, '--work-dir', work_dir / 'test', '--tta', '--out', out]
        run_step(work_dir / 'test.txt', 'test', *arguments, '--cfg-options', *options)
        return self.percent * json.loads(out.read_text(encoding='utf-8'))[self.metric]


PRETRAINING = Step('classification', 'resnet18_en_digits.py', 'imagenet', 'accuracy/top1', 'accuracy')
TASKS = (
    Step('segmentation', 'deeplab_en_r18_pretrained_digits.py', 'ade/ADEChallengeData2016', 'mIoU', 'mIoU'),
    Step(
        'detection', 'faster_rcnn_en_r18_fpn_digits.py', 'coco', 'coco/bbox_mAP', 'box AP', 100,
        'annotations/instances_val2017.json',
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What one training gave: the metric in percent by iteration, and at several scales at the end."""

    curve: dict[int, float]
    several_scales: float
    seconds: float


def init_option(start: str, checkpoint: Path) -> str:
    """The one option that decides what the backbone starts from."""
    init_cfg = 'model.backbone.init_cfg'
    return f'{init_cfg}.checkpoint={checkpoint}' if start == 'finetuned' else f'{init_cfg}=None'


def table(results: dict[str, dict[str, Result]]) -> str:
    """The results by task and start, and below each pair which start was better early on."""
    lines = [f'{"task":14}{"start":12}{"metric":9}{"early":>18}{"end":>18}{"several scales":>17}{"training":>11}']
    for step in TASKS:
        early = {}
        for start, result in results[step.task].items():
            (first, early[start]), (last, end) = min(result.curve.items()), max(result.curve.items())
            lines.append(
                f'{step.task:14}{start:12}{step.label:9}{early[start]:9.2f} (it. {first:3}){end:9.2f} (it. {last:3})'
                f'{result.several_scales:17.2f}{result.seconds:9.0f} s'
            )
        gain = early['finetuned'] - early['scratch']
        verdict = 'yes' if gain > 0 else 'no'
        lines.append(f'{"":14}finetuning started better: {verdict} ({gain:+.2f})')
    return '\n'.join(lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/pipeline'), help='where everything goes')
    parser.add_argument('--images', type=int, default=4000, help='number of training images of each task')
    parser.add_argument('--iterations', type=int, help='length of each training, instead of what the configs say')
    args = parser.parse_args()
    if args.iterations is not None and args.iterations < 1:
        raise UsageError(f'--iterations is {args.iterations}, expected at least 1')
    if args.images < 32:
        raise UsageError(f'--images is {args.images}, expected at least 32, a batch of the pretraining')
    return args


def main() -> None:
    args = parse_args()
    # Its last part, after many minutes.
    checks.check_operators('the detection of the pipeline')
    begin = time.monotonic()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    digits = out / 'digits'
    run_step(
        out / 'digits.txt', 'digits', 'imagenet', 'ade20k', 'coco', '--out', digits, '--size', 64, 64,
        '--train', args.images, '--val', max(args.images // 40, 2),
    )  # fmt: skip

    print(f'classification: pretraining ResNet-18 with EN (log: {out / PRETRAINING.task}) ...', flush=True)
    pretrained, curve = PRETRAINING.train(out / PRETRAINING.task, PRETRAINING.options(digits, args.iterations))
    print(f'accuracy {max(curve.items())[1]:.2f} % over 10 classes; checkpoint: {pretrained}')

    results: dict[str, dict[str, Result]] = {step.task: {} for step in TASKS}
    for step in TASKS:
        options = step.options(digits, args.iterations)
        for start in STARTS:
            work_dir = out / step.task / start
            print(f'{step.task}: training, {start} (log: {work_dir}) ...', flush=True)
            trained = time.monotonic()
            checkpoint, curve = step.train(work_dir, [*options, init_option(start, pretrained)])
            seconds = time.monotonic() - trained
            # The network is whole in its checkpoint.
            several_scales = step.test(checkpoint, work_dir, [*options, 'model.backbone.init_cfg=None'])
            results[step.task][start] = Result(curve, several_scales, seconds)
    print(f'\n{table(results)}\n\nIn percent; {time.monotonic() - begin:.0f} s in all.')
