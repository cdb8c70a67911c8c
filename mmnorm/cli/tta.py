"""Test-time augmentation for configs of mmseg, mmdet and mmpretrain: several scales and flips of each image."""

from copy import deepcopy

from mmengine.config import Config, ConfigDict

from ..errors import UsageError

_FLIPS = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]


def enable_tta(cfg: Config, scope: str) -> None:
    """Make ``cfg`` test with augmentation: its own ``tta_model`` and ``tta_pipeline``, else the codebase's defaults.

    Raises:
        UsageError: If ``cfg`` has none and the codebase has no default.
    """
    default = {'mmdet': _detection_default, 'mmpretrain': _classification_default}.get(scope)
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    missing = [name for name in ('tta_model', 'tta_pipeline') if cfg.get(name) is None]
    if missing and default is not None:
        tta_model, tta_pipeline = default(deepcopy(dataset.pipeline))
        defaults = dict(tta_model=tta_model, tta_pipeline=tta_pipeline)
        cfg.merge_from_dict({name: defaults[name] for name in missing})
        missing = []
    if missing:
        raise UsageError(
            f'{cfg.filename} has no {" and no ".join(missing)}, which --tta needs; '
            f"see mmseg's configs/_base_/datasets for an example"
        )
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    if scope == 'mmdet':
        _boxes_only(cfg)


def _detection_default(pipeline: list) -> tuple[dict, list]:
    """The image at 1, 1/2 and 3/2 of the test scale, each also flipped; mmdet merges the boxes of all views by NMS."""
    resize = next((i for i, step in enumerate(pipeline) if step['type'] == 'Resize' and 'scale' in step), None)
    if resize is None:
        raise UsageError('--tta: the test pipeline has no Resize with a scale to vary; give the config a tta_pipeline')
    scales = [tuple(round(factor * side) for side in pipeline[resize]['scale']) for factor in (1, 0.5, 1.5)]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    views = [
        [dict(pipeline[resize], scale=scale) for scale in scales],
        _FLIPS,
        *([step] for step in pipeline[resize + 1 : -1]),
        [dict(type='PackDetInputs', meta_keys=keys)],
    ]
    tta_cfg = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    pipeline = [*pipeline[:resize], dict(type='TestTimeAug', transforms=views)]
    return dict(type='DetTTAModel', tta_cfg=tta_cfg), pipeline


def _classification_default(pipeline: list) -> tuple[dict, list]:
    """Flips; the scores are averaged."""
    pipeline[-1] = dict(type='TestTimeAug', transforms=[_FLIPS, [pipeline[-1]]])
    return dict(type='mmpretrain.AverageClsScoreTTA'), pipeline


def _boxes_only(cfg: Config) -> None:
    """Leave out the masks: mmdet's DetTTAModel merges boxes and refuses masks."""
    roi_head = cfg.model.module.get('roi_head')
    if roi_head is None or roi_head.get('mask_head') is None:
        return
    roi_head.mask_head = roi_head.mask_roi_extractor = None
    for evaluator in cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]:
        if isinstance(evaluator.get('metric'), list | tuple):
            evaluator.metric = [metric for metric in evaluator.metric if metric != 'segm']
    print("--tta: mmdet's test-time augmentation merges boxes only; masks are neither predicted nor evaluated")
