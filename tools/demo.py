"""The demo: DeepLab with EN and with BN learn to segment the built-in digits scenes, side by side, on a CPU.

Writes the scenes, trains both with mmnorm train, evaluates both with mmnorm test at one scale and at several,
prints the mIoU of all, and saves a picture of a few scenes with truth and predictions.
"""

import argparse
import json
import time
from pathlib import Path

import mmnorm  # noqa: F401  registers EN, and finds the configs behind mmseg::
from mmnorm.cli.processes import run_step

ROOT = Path(__file__).resolve().parent.parent
NORMS = ('EN', 'BN')


def config_of(norm: str) -> Path:
    return ROOT / f'configs/demo/deeplab_{norm.lower()}_r18_digits.py'


def train_and_test(norm: str, out: Path, options: list[str]) -> dict[str, float]:
    """Train one network and evaluate it.

    Returns:
        Seconds of training, and mIoU at one scale and at several, in percent.
    """
    config, work_dir = config_of(norm), out / norm.lower()
    work_dir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    # The hook that seeds every batch with its number, for BN too: so both see the same crops and flips.
    arguments = [config, '--work-dir', work_dir, '--no-validate', '--with', 'exact-resume', *options]
    run_step(work_dir / 'train.txt', 'train', *arguments)
    result = {'seconds': time.monotonic() - start}
    checkpoint = Path((work_dir / 'last_checkpoint').read_text(encoding='utf-8').strip())
    for key, flags in {'single': [], 'multi': ['--tta']}.items():
        metrics = work_dir / f'{key}.json'
        test = [config, checkpoint, '--work-dir', work_dir / f'test_{key}', '--out', metrics, *flags, *options]
        run_step(work_dir / f'test_{key}.txt', 'test', *test)
        result[key] = json.loads(metrics.read_text(encoding='utf-8'))['mIoU']
    return result


def draw_predictions(out: Path, data_root: Path, picture: Path, scenes: int = 5) -> None:
    """Save a figure of validation scenes: image, truth, and the prediction of each norm."""
    import cv2
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.patches import Patch
    from mmseg.apis import inference_model, init_model

    from mmnorm.cli.own_reader import use_own_reader

    use_own_reader()
    models = {}
    for norm in NORMS:
        work_dir = out / norm.lower()
        checkpoint = (work_dir / 'last_checkpoint').read_text(encoding='utf-8').strip()
        models[norm] = init_model(str(config_of(norm)), checkpoint, device='cpu')
    meta = models[NORMS[0]].dataset_meta
    palette = np.array(meta['palette'], dtype=np.uint8)
    columns = ['image', 'truth', *models]
    figure, axes = plt.subplots(scenes, len(columns), figsize=(2 * len(columns), 2 * scenes + 0.7))
    files = sorted((data_root / 'images/validation').glob('*.jpg'))[:scenes]
    for row, file in zip(axes, files, strict=True):
        truth = cv2.imread(str(data_root / 'annotations/validation' / f'{file.stem}.png'), cv2.IMREAD_UNCHANGED) - 1
        pictures = [cv2.imread(str(file))[..., ::-1], palette[truth]]
        for model in models.values():
            prediction = inference_model(model, str(file)).pred_sem_seg.data[0].numpy()
            pictures.append(palette[prediction])
        for axis, content in zip(row, pictures, strict=True):
            axis.imshow(content)
            axis.axis('off')
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    handles = [Patch(color=palette[i] / 255, label=name) for i, name in enumerate(meta['classes'])]
    figure.legend(handles=handles, loc='lower center', ncols=6, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(picture, dpi=120)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'), help='where everything goes')
    parser.add_argument('--scenes', type=int, default=3000, help='number of training scenes')
    parser.add_argument('--iterations', type=int, help='train shorter or longer than the configs say')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    # The configs read data/digits from the current folder; the demo works from any.
    run_step(
        out / 'make_digits.txt', 'digits', 'ade20k', '--out', out / 'digits', '--size', 64, 64,
        '--train', args.scenes, '--val', max(args.scenes // 30, 5),
    )  # fmt: skip
    data_root = out / 'digits/ade/ADEChallengeData2016'
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    options = ['--cfg-options', *(f'{loader}.dataset.data_root={data_root}' for loader in loaders)]
    if args.iterations is not None:
        n = args.iterations
        options += [f'train_cfg.max_iters={n}', f'default_hooks.checkpoint.interval={n}', f'param_scheduler.0.end={n}']

    results = {}
    for norm in NORMS:
        print(
            f'training DeepLab-ResNet-18 with {norm} on the digits scenes (log: {out / norm.lower()}) ...', flush=True
        )
        results[norm] = train_and_test(norm, out, options)
    picture = out / 'predictions.png'
    draw_predictions(out, data_root, picture)

    print(f'\n{"norm":6}{"training":>12}{"mIoU, one scale":>20}{"mIoU, several scales":>24}')
    for norm, result in results.items():
        print(f'{norm:6}{result["seconds"]:10.0f} s{result["single"]:20.2f}{result["multi"]:24.2f}')
    print(f'\nmIoU in percent over 11 classes, the same iterations and batches of 2 for both. Pictures: {picture}')


if __name__ == '__main__':
    main()
