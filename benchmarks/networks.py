"""Times training steps of whole networks, and takes their peak memory, with BN, SN, EN, ILM (fused, too) and GN."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import arguments
import torch
from environment import ROOT, describe, environment, load
from memory import process_memory
from report import Table, duration, number, save
from torch import Tensor, nn
from torch.nn import functional

import mmnorm
from mmnorm.timing import interleave, seconds_per_call

NORM_CFGS = {
    'BN': dict(type='BN'),
    'SN': dict(type='SN'),
    'EN': dict(type='EN'),
    'ILM': dict(type='ILM'),
    'GN': dict(type='GN', num_groups=32),
}
# The learned ones with the sums and activations that follow them, too.
FUSED = '+fuse'
NORM_CFGS |= {f'{norm}{FUSED}': NORM_CFGS[norm] for norm in ('SN', 'EN', 'ILM')}
NORMS = list(NORM_CFGS)
# Side length of the images, and images a batch on a CPU and on CUDA.
MODELS = {
    'resnet50': (224, 8, 64),
    'torchvision_resnet50': (224, 8, 64),
    'deeplabv3_r50': (512, 2, 4),
    'mask_rcnn_r50': (512, 2, 4),
}
AMP = ('off', 'bfloat16', 'float16')


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.Parser(description=__doc__)
    parser.add_argument('--model', nargs='+', choices=list(MODELS), default=['resnet50'], help='default: resnet50')
    parser.add_argument('--norms', nargs='+', choices=NORMS, default=NORMS, help='BN always (default: all)')
    parser.add_argument(
        '--batch', type=arguments.positive, metavar='N',
        help='images a step (default: resnet50 8 on a CPU, 64 on CUDA; the others 2 and 4)',
    )  # fmt: skip
    parser.add_argument(
        '--size', type=arguments.positive, metavar='PIXELS',
        help='height and width (default: resnet50 224, the others 512)',
    )  # fmt: skip
    parser.add_argument(
        '--device', type=arguments.device, default=arguments.default_device(), help='cpu or cuda (default: cuda if any)'
    )
    parser.add_argument('--memory-format', choices=list(arguments.MEMORY_FORMATS), default='contiguous')
    parser.add_argument('--amp', choices=AMP, default='off', help='the type that autocast computes in')
    parser.add_argument(
        '--steps', type=arguments.positive, metavar='N', help='timed steps a norm (default: 5 on a CPU, 20 on CUDA)'
    )
    parser.add_argument(
        '--separate', action='store_true',
        help='time the networks in processes of their own, in rounds, as happens anyway where they do not fit together',
    )  # fmt: skip
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder of networks.* (%(default)s)'
    )
    parser.add_argument(
        '--at-most', nargs='+', type=arguments.limit, metavar='NORM=RATIO', default=[],
        help="exit with 1 if a norm's step time exceeds that share of BN's, in any network",
    )  # fmt: skip
    # What a process of its own works on: a network, a norm and a number of steps.
    parser.add_argument('--worker', nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.steps = options.steps or (5 if options.device.type == 'cpu' else 20)
    options.model = list(dict.fromkeys(options.model))
    options.norms = [norm for norm in NORMS if norm == 'BN' or norm in options.norms]
    options.at_most = dict(options.at_most)
    arguments.check_limits(options.at_most, options.norms, parser)
    if 'deeplabv3_r50' in options.model and options.batch == 1:
        parser.error('argument --batch: BN does not train on the image pooling of a single image, which is one pixel')
    return options


def size_and_batch(model: str, options: argparse.Namespace) -> tuple[int, int]:
    size, on_cpu, on_cuda = MODELS[model]
    return options.size or size, options.batch or (on_cpu if options.device.type == 'cpu' else on_cuda)


def import_codebase(model: str) -> None:
    if model == 'resnet50':
        import mmpretrain.models  # noqa: F401
    elif model == 'torchvision_resnet50':
        import torchvision.models  # noqa: F401
    elif model == 'mask_rcnn_r50':
        import mmdet.models  # noqa: F401
    else:
        import mmseg.models  # noqa: F401


def build_resnet50(norm_cfg: dict, size: int, batch: int, device: torch.device) -> tuple[nn.Module, list]:
    """ResNet-50 of mmpretrain as in its ImageNet configs, and random labels."""
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    head = dict(type='LinearClsHead', num_classes=1000, in_channels=2048, loss=dict(type='CrossEntropyLoss'))
    backbone = dict(type='ResNet', depth=50, norm_cfg=norm_cfg)
    network = MODELS.build(
        dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    )
    labels = torch.randint(1000, (batch, 1), device=device)
    return network, [DataSample().set_gt_label(label) for label in labels]


def build_torchvision_resnet50(norm_cfg: dict, size: int, batch: int, device: torch.device) -> tuple[nn.Module, list]:
    """ResNet-50 of torchvision, for machines without OpenMMLab, and random labels."""
    from torchvision.models import resnet50

    layers = {
        'BN': nn.BatchNorm2d,
        'SN': mmnorm.SwitchableNorm2d,
        'EN': mmnorm.ExemplarNorm2d,
        'ILM': mmnorm.InstanceMetaNorm2d,
        'GN': partial(nn.GroupNorm, 32),
    }
    return Classifier(resnet50(norm_layer=layers[norm_cfg['type']])), [torch.randint(1000, (batch,), device=device)]


class Classifier(nn.Module):
    """A network that is called as OpenMMLab's are, with a tensor of labels in the place of its samples."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, samples: list[Tensor], mode: str) -> dict[str, Tensor]:
        return {'loss': functional.cross_entropy(self.network(images), samples[0])}


def build_deeplabv3_r50(norm_cfg: dict, size: int, batch: int, device: torch.device) -> tuple[nn.Module, list]:
    """DeepLabV3-R50 of mmseg with output stride 8 as in this project's configs, and random label maps."""
    from mmengine.config import Config
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    config = Config.fromfile(ROOT / 'configs/_base_/deeplab_r50.py').model
    for part in ('backbone', 'decode_head', 'auxiliary_head'):
        config[part].norm_cfg = norm_cfg
    classes = config.decode_head.num_classes
    maps = torch.randint(classes, (batch, 1, size, size), device=device)
    return MODELS.build(config), [SegDataSample(gt_sem_seg=PixelData(data=labels)) for labels in maps]


def build_mask_rcnn_r50(norm_cfg: dict, size: int, batch: int, device: torch.device) -> tuple[nn.Module, list]:
    """Mask R-CNN with ResNet-50 and FPN, the norm in backbone, FPN and heads, and 8 random objects an image to find."""
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.config import Config

    config = Config.fromfile(ROOT / 'configs/_base_/mask_rcnn_r50_fpn_coco.py').model
    config.backbone.init_cfg = None
    for part in (config.backbone, config.neck, config.roi_head.bbox_head, config.roi_head.mask_head):
        part.norm_cfg = norm_cfg
    shapes = [(3, size, size)] * batch
    samples = demo_mm_inputs(batch, shapes, num_items=[8] * batch, num_classes=80, with_mask=True)['data_samples']
    for sample in samples:
        # What the data preprocessor says, which is not asked here.
        sample.set_metainfo({'pad_shape': (size, size), 'batch_input_shape': (size, size)})
    return MODELS.build(config), [sample.to(device) for sample in samples]


BUILD = {
    'resnet50': build_resnet50,
    'torchvision_resnet50': build_torchvision_resnet50,
    'deeplabv3_r50': build_deeplabv3_r50,
    'mask_rcnn_r50': build_mask_rcnn_r50,
}


def make_step(model: str, norm: str, options: argparse.Namespace) -> Callable[[], None]:
    """A network with random data; a call trains it by a step."""
    torch.manual_seed(0)
    size, batch = size_and_batch(model, options)
    device, kind = options.device, options.device.type
    as_format = {'memory_format': arguments.MEMORY_FORMATS[options.memory_format]}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        network, samples = BUILD[model](NORM_CFGS[norm], size, batch, device)
    if norm.endswith(FUSED):
        mmnorm.fuse(network)
    network.to(device, **as_format).train()
    images = torch.randn(batch, 3, size, size, device=device).contiguous(**as_format)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    amp = options.amp != 'off'
    dtype = arguments.DTYPES[options.amp] if amp else None
    # PyTorch scales gradients on the CPU since 2.3.
    scalers = torch.amp if hasattr(torch.amp, 'GradScaler') else torch.cuda.amp
    scaler = scalers.GradScaler(*([kind] if scalers is torch.amp else []), enabled=options.amp == 'float16')

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(kind, dtype=dtype, enabled=amp):
            losses = network(images, samples, mode='loss')
            # A value, or one for each level of a pyramid.
            values = [value for name, value in losses.items() if 'loss' in name]
            parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
            loss = sum(part.mean() for part in parts)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def work(model: str, norm: str, steps: int, options: argparse.Namespace) -> dict:
    """Seconds of each step after the first, and peak bytes; for a process that does nothing else."""
    import_codebase(model)
    before = process_memory()
    step = make_step(model, norm, options)
    step()
    seconds = [seconds_per_call(step, 1, options.device) for _ in range(steps)]
    if options.device.type == 'cuda':
        return {'seconds': seconds, 'peak': torch.cuda.max_memory_allocated()}
    after = process_memory()
    return {'seconds': seconds, 'peak': after[1] - before[0] if before else None}


def work_elsewhere(model: str, norm: str, steps: int, options: argparse.Namespace) -> dict:
    """:func:`work` in a fresh process."""
    size, batch = size_and_batch(model, options)
    command = [
        sys.executable, __file__, '--worker', model, norm, str(steps), '--size', str(size), '--batch', str(batch),
        '--device', options.device.type, '--memory-format', options.memory_format, '--amp', options.amp,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ['no message']
        raise RuntimeError(f'{model} with {norm} failed (status {done.returncode}): {lines[-1]}')
    return json.loads(done.stdout.splitlines()[-1])


def time_together(model: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the steps of each norm, all networks alive at once."""
    import_codebase(model)
    steps = {norm: make_step(model, norm, options) for norm in options.norms}
    return interleave(steps, options.steps, options.device, sample_seconds=0)


def time_in_rounds(model: str, options: argparse.Namespace, rounds: int = 3) -> dict[str, list[float]]:
    """Seconds of the steps of each norm, each in processes of its own, one after another."""
    samples = {norm: [] for norm in options.norms}
    for i in range(rounds):
        steps = (options.steps + i) // rounds
        for norm in options.norms:
            if steps:
                samples[norm] += work_elsewhere(model, norm, steps, options)['seconds']
    return samples


def measure(model: str, options: argparse.Namespace) -> list[dict]:
    """Times and peak bytes of a network with each norm."""
    peaks = {}
    for norm in options.norms:
        print(f'{model}, {norm}: peak memory ...', file=sys.stderr, flush=True)
        # The step after the first has the momentum in memory too.
        peaks[norm] = work_elsewhere(model, norm, 1, options)['peak']
    print(f'{model}: times ...', file=sys.stderr, flush=True)
    together = not options.separate
    if together:
        try:
            samples = time_together(model, options)
        except torch.cuda.OutOfMemoryError:
            together = False
    if not together:
        torch.cuda.empty_cache()
        samples = time_in_rounds(model, options)
    size, batch = size_and_batch(model, options)
    results = []
    for norm in options.norms:
        result = {'model': model, 'size': size, 'batch': batch, 'memory_format': options.memory_format}
        result |= {'amp': options.amp, 'together': together, 'norm': norm}
        result |= {'step': statistics.median(samples[norm]), 'peak': peaks[norm], 'samples': samples[norm]}
        results.append(result)
    bn = results[0]
    for result in results:
        result['step / BN'] = result['step'] / bn['step']
        result['peak / BN'] = result['peak'] / bn['peak'] if bn['peak'] else None
    return results


def table(results: list[dict]) -> Table:
    first = results[0]
    amp = 'float32' if first['amp'] == 'off' else f'autocast to {first["amp"]}'
    title = f'{first["model"]}, {first["batch"]}x3x{first["size"]}x{first["size"]}, {first["memory_format"]}, {amp}'
    rows = []
    for result in results:
        row = [result['norm'], duration(result['step']), number(result['step / BN'])]
        if result['peak / BN'] is None:
            row += ['-', '-']
        else:
            row += [f'{result["peak"] / 2**20:.0f} MiB', number(result['peak / BN'])]
        rows.append(row)
    return Table(title, ['norm', 'step', '/ BN', 'peak memory', '/ BN'], [('', rows)])


def main(words: Sequence[str] | None = None) -> int:
    options = parse_arguments(words)
    if options.worker:
        model, norm, steps = options.worker
        print(json.dumps(work(model, norm, int(steps), options)))
        return 0
    facts = environment(options.device)
    print(describe(facts), flush=True)
    results, made, missed = [], [], []
    for model in options.model:
        try:
            measured = measure(model, options)
        except (ImportError, RuntimeError) as error:
            print(f'networks.py: {error}', file=sys.stderr)
            return 2
        made.append(table(measured))
        made[-1].print()
        ratios = {result['norm']: result['step / BN'] for result in measured}
        missed += arguments.missed_limits(options.at_most, ratios, model)
        results += measured
    facts['load at the end'] = load()

    units = {'step': ' (s)', 'peak': ' (bytes)'}
    rows = [{f'{k}{units.get(k, "")}': v for k, v in result.items() if k != 'samples'} for result in results]
    save(options.out, 'networks', {'environment': facts, 'results': results}, rows, made)
    print(f'saved {options.out}/networks.json, .csv and .md; load at the end {facts["load at the end"]}')
    for line in missed:
        print(line, file=sys.stderr)
    if options.at_most and not missed:
        print('all that --at-most asks is met')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
