"""configs/metafile.yml, which model-index.yml leads OpenMMLab's tools to: every config, and what was run here."""

from pathlib import PurePosixPath
from typing import Any

import yaml

from ..registry import NORMS
from .catalogue import Catalogue, Experiment

_TASKS = {
    'deeplab': 'Semantic Segmentation',
    'faster_rcnn': 'Object Detection',
    'mask_rcnn': 'Instance Segmentation',
    'pix2pix': 'Image-to-Image Translation',
}
_DATA = {
    'ade20k': 'ADE20K',
    'camvid': 'CamVid',
    'cifar10': 'CIFAR-10',
    'cifar100': 'CIFAR-100',
    'cityscapes': 'Cityscapes',
    'coco': 'COCO',
    'digits': 'digits of scikit-learn',
    'facades': 'CMP Facades',
    'imagenet': 'ImageNet-1k',
    'webvision': 'WebVision 1.0',
}
_HEAD = '# Written by `mmnorm experiments document` from mmnorm/experiments/experiments.yaml; results were run.\n'


def metafile(catalogue: Catalogue) -> str:
    """The whole of configs/metafile.yml."""
    rows: dict[str, list[Experiment]] = {}
    for row in catalogue.experiments.values():
        if row.config and row.kind == 'train':
            rows.setdefault(row.config, []).append(row)
    content = {
        'Collections': [
            dict(Name=norm, Paper=dict(Title=title, URL=f'https://arxiv.org/abs/{number}'))
            for norm, title, number in _papers(rows)
        ],
        'Models': [_model(catalogue, config, rows[config]) for config in sorted(rows)],
    }
    return _HEAD + yaml.safe_dump(content, sort_keys=False, width=120)


def _papers(rows: dict[str, list[Experiment]]) -> list[tuple[str, str, str]]:
    """Kind, title and number on arXiv of the norms that configs have."""
    used = {row.norm for of_config in rows.values() for row in of_config}
    return [(kind, *cls.paper) for kind, cls in NORMS.items() if kind in used and cls.paper is not None]


def _model(catalogue: Catalogue, config: str, rows: list[Experiment]) -> dict[str, Any]:
    # One that changes nothing in the config, if there is one.
    row = min(rows, key=lambda row: len(row.set))
    path = PurePosixPath(config)
    task = next((task for start, task in _TASKS.items() if path.name.startswith(start)), 'Image Classification')
    assert row.data is not None, row.id
    model: dict[str, Any] = {'Name': str(path.with_suffix(''))}
    if row.norm in NORMS:
        model['In Collection'] = row.norm
    model['Config'] = f'configs/{config}'
    model['Metadata'] = {'Training Data': _DATA[row.data], 'Batch Size': row.gpus * (row.images or 1)}
    for row in rows:
        # As the config stands, from nothing.
        if row.set or row.start or row.data is None:
            continue
        figures = {name: float(value) for name, value in row.here.items() if name != 'note'}
        if 'params' in figures:
            model['Metadata']['Parameters'] = round(1e6 * figures['params'])
        if 'gflops' in figures:
            model['Metadata']['FLOPs'] = round(1e9 * figures['gflops'])
        reached = {name: value for name, value in figures.items() if not catalogue.metrics[name].counted}
        if reached:
            metrics = {catalogue.metrics[name].label: value for name, value in reached.items()}
            model.setdefault('Results', []).append({'Task': task, 'Dataset': _DATA[row.data], 'Metrics': metrics})
    return model
