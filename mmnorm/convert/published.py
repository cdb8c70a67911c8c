"""The checkpoints that the authors of SN and ILM published, under the names of mmpretrain, mmseg and mmdet.

The names and shapes are those of these files:

* image classification with SN: ``imagenet/models/resnet_v1_sn.py`` and ``devkit/ops/switchable_norm.py`` of
  switchablenorms/Switchable-Normalization;
* detection with SN: ``lib/modeling/{ResNet,FPN,fast_rcnn_heads,mask_rcnn_heads,model_builder}.py`` and
  ``lib/nn/modules/normalization.py`` of switchablenorms/SwitchNorm_Detection;
* segmentation with SN: ``models/models.py`` and ``models/resnet_v1_sn.py`` of switchablenorms/SwitchNorm_Segmentation;
* ILM: ``lib/nn/ilm_{gn,ln,in}.py`` and ``lib/net/resnet_{imageNet,cifar}.py`` of Gasoonjia/ILM-Norm.
"""

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from .checkpoints import CheckpointReport, join, split_by_module

CODEBASES = ('mmpretrain', 'mmseg', 'mmdet')
_ABBREVIATIONS = {'SN': 'bn', 'ILM': 'gn'}
_POOLS = {(2, False): ('IN', 'LN'), (3, True): ('IN', 'LN', 'BN'), (2, True): ('LN', 'BN')}
_NO_PLACE = ''

# What other ResNets call their parts, in the words of torchvision's. ILM's for CIFAR, and Detectron's.
_RESNETS = (
    (r'module\.', ''),
    (r'(layer\d\.\d+)\.shortcut\.', r'\1.downsample.'),
    (r'linear\.', 'fc.'),
    (r'Conv_Body\.(?:conv_body\.)?res1\.', ''),
    (r'Conv_Body\.(?:conv_body\.)?res(\d)\.', lambda match: f'layer{int(match[1]) - 1}.'),
    (r'Conv_Body\.(?:conv_body\.)?classifier\.', 'fc.'),
)
# Prefixes of what follows, by codebase; the first that fits counts.
_BACKBONE = (r'(conv1|norm1|layer\d)\.', r'backbone.\1.')
_PLACES = {
    'mmpretrain': (_BACKBONE, (r'fc\.', 'head.fc.')),
    'mmseg': (
        _BACKBONE,
        (r'fc\.', _NO_PLACE),
        (r'cbr\.0\.', 'decode_head.convs.0.conv.'),
        (r'cbr\.1\.', 'decode_head.convs.0.bn.'),
        (r'conv_last\.(weight|bias)$', r'decode_head.conv_seg.\1'),
        (r'cbr_deepsup\.0\.', 'auxiliary_head.convs.0.conv.'),
        (r'cbr_deepsup\.1\.', 'auxiliary_head.convs.0.bn.'),
        (r'conv_last_deepsup\.', 'auxiliary_head.conv_seg.'),
    ),
    'mmdet': (
        _BACKBONE,
        (r'fc\.', _NO_PLACE),
        # FPN counts its levels from the coarsest, mmdet from the finest.
        (r'Conv_Body\.conv_top\.', 'neck.lateral_convs.3.'),
        (
            r'Conv_Body\.topdown_lateral_modules\.([0-2])\.conv_lateral\.',
            lambda match: f'neck.lateral_convs.{2 - int(match[1])}.',
        ),
        (r'Conv_Body\.posthoc_modules\.([0-3])\.', lambda match: f'neck.fpn_convs.{3 - int(match[1])}.'),
        (r'RPN\.(?:FPN_)?RPN_conv\.', 'rpn_head.rpn_conv.'),
        (r'RPN\.(?:FPN_)?RPN_cls_score\.', 'rpn_head.rpn_cls.'),
        (r'RPN\.(?:FPN_)?RPN_bbox_pred\.', 'rpn_head.rpn_reg.'),
        (r'Box_Head\.res5\.', 'roi_head.shared_head.layer4.'),
        (r'Box_Head\.convs\.', 'roi_head.bbox_head.shared_convs.'),
        (r'Box_Head\.fc1?\.', 'roi_head.bbox_head.shared_fcs.0.'),
        (r'Box_Head\.fc2\.', 'roi_head.bbox_head.shared_fcs.1.'),
        (r'Box_Outs\.cls_score\.', 'roi_head.bbox_head.fc_cls.'),
        (r'Box_Outs\.bbox_pred\.', 'roi_head.bbox_head.fc_reg.'),
        (r'Mask_Head\.conv_fcn\.', 'roi_head.mask_head.convs.'),
        (r'Mask_Head\.upconv\.', 'roi_head.mask_head.upsample.'),
        (r'Mask_Outs\.classify\.', 'roi_head.mask_head.conv_logits.'),
    ),
}
# A Sequential of convolution, norm and perhaps ReLU, one or several times, is as many ConvModules.
_SEQUENTIALS = (
    (re.compile(r'(neck\.(?:lateral|fpn)_convs\.\d)\.(\d)\.'), 2, '{0}.{2}.'),
    (re.compile(r'(roi_head\.(?:bbox_head\.shared_convs|mask_head\.convs))\.(\d+)\.'), 3, '{0}.{1}.{2}.'),
)
_BARE_CONVOLUTION = re.compile(r'(neck\.(?:lateral|fpn)_convs\.\d)\.(weight|bias)$')


def convert_published(
    state_dicts: Mapping[str, Tensor] | list[Mapping[str, Tensor]], codebase: str
) -> tuple[dict[str, Tensor], CheckpointReport]:
    """Map the names and shapes of published SN and ILM checkpoints to those of a codebase of OpenMMLab.

    Args:
        state_dicts: One or several parts of a model, e.g. encoder and decoder.
        codebase: 'mmpretrain' (ResNet, CIFAR's too), 'mmseg' (that ResNet in an EncoderDecoder with FCNHeads) or
            'mmdet' (it in a Faster or Mask R-CNN, with or without FPN).

    Returns:
        The state dict, and what became of every entry.

    Raises:
        ValueError: If nothing in it is SN or ILM of the published kind, if two entries want the same place, or for
            the pre-activation ResNet (v2), which none of the codebases has.
    """
    if codebase not in CODEBASES:
        raise ValueError(f'codebase must be one of {", ".join(CODEBASES)}, got {codebase!r}')
    converted: dict[str, Tensor] = {}
    norms: Counter[str] = Counter()
    report = CheckpointReport()
    for state_dict in [state_dicts] if isinstance(state_dicts, Mapping) else state_dicts:
        for path, entries in _modules(state_dict).items():
            if re.search(r'(?:^|\.)sn_out$', path):
                raise ValueError('it is a pre-activation ResNet (v2), which mmpretrain, mmseg and mmdet do not have')
            kind = _kind(entries)
            if kind is not None:
                entries, config = _convert_norm(path, kind, entries, report)
                norms[config] += 1
            for name, (value, old) in entries.items():
                _place(path, name, kind, value, old, codebase, converted, report)
    if not norms:
        raise ValueError(
            'it has no SN (mean_weight, var_weight) and no ILM (weight_bias, bias_bias) as they were published'
        )
    report.notes += [f'{count} norms of norm_cfg={config}' for config, count in norms.items()]
    statistics = [value for key, value in converted.items() if key.endswith('.running_var')]
    if statistics and not any(value.any() for value in statistics):
        report.notes.append('all running variances are 0: re-estimate the statistics of BN before eval mode')
    return converted, report


def _modules(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, tuple[Tensor, str]]]:
    """The entries by module, each with the key that it had; the Linear layers in an ILM belong to it."""
    owners = {path for path, entries in split_by_module(state_dict).items() if 'weight_bias' in entries}
    modules: dict[str, dict[str, tuple[Tensor, str]]] = {}
    for key, value in state_dict.items():
        path = key.rpartition('.')[0]
        while path not in owners and path:
            path = path.rpartition('.')[0]
        path = path or key.rpartition('.')[0]
        modules.setdefault(path, {})[key[len(path) + 1 :] if path else key] = value, key
    return modules


def _kind(entries: Mapping) -> str | None:
    if {'mean_weight', 'var_weight'} <= entries.keys():
        return 'SN'
    return 'ILM' if {'weight_bias', 'bias_bias'} <= entries.keys() else None


def _convert_norm(path: str, kind: str, entries: dict, report: CheckpointReport) -> tuple[dict, str]:
    """The entries of a norm under our names and in our shapes, and the norm_cfg that they need."""
    try:
        return (_convert_sn if kind == 'SN' else _convert_ilm)(path, dict(entries), report)
    except KeyError as error:
        raise ValueError(f'{path} is no published {kind}: {error.args[0]} is missing') from None


def _convert_sn(path: str, entries: dict, report: CheckpointReport) -> tuple[dict, str]:
    # Sums that the detection code collects for its batch average. It normalizes by running_mean and running_var.
    for name in ('batch_mean', 'batch_var'):
        if name in entries:
            report.dropped[entries.pop(name)[1]] = 'sums of a batch average in progress'
    size = entries['mean_weight'][0].numel()
    pool = _POOLS.get((size, 'running_mean' in entries))
    if pool is None:
        raise ValueError(f'{path} mixes {size} normalizers, which no published SN does')
    converted = {name: (value.flatten(), old) for name, (value, old) in entries.items()}
    if 'BN' in pool:
        converted['num_batches_tracked'] = torch.tensor(0), None
    default = pool == ('IN', 'LN', 'BN')
    return converted, "dict(type='SN')" if default else f"dict(type='SN', normalizers={pool})"


def _convert_ilm(path: str, entries: dict, report: CheckpointReport) -> tuple[dict, str]:
    weight, bias = (entries[name] for name in ('weight_bias', 'bias_bias'))
    encoder, mean_decoder, var_decoder = (
        entries[name] for name in ('fc_embed.0.weight', 'fc_bias.1.weight', 'fc_weight.1.weight')
    )
    for name in ('fc_weight.0.0.weight', 'fc_bias.0.0.weight'):
        if name in entries:
            value, old = entries[name]
            if not torch.equal(value, encoder[0]):
                raise ValueError(f'{old} is not the encoder that {path} shares: expected {path}.fc_embed.0.weight')
            report.dropped[old] = 'the same as the encoder, fc_embed.0.weight'
    size, groups = encoder[0].shape
    if groups == 16 and size == 1:
        # The script's GN has one embedding here, where the paper has two. The second one predicts nothing yet.
        encoder = encoder[0].repeat(2, 1), encoder[1]
        mean_decoder, var_decoder = (
            (torch.cat([value, torch.zeros_like(value)], 1), old) for value, old in (mean_decoder, var_decoder)
        )
    names = ('weight', 'bias', 'encoder_weight', 'mean_decoder_weight', 'var_decoder_weight')
    values = ((weight[0].flatten(), weight[1]), (bias[0].flatten(), bias[1]), encoder, mean_decoder, var_decoder)
    return dict(zip(names, values, strict=True)), "dict(type='ILM', base=...), the base that it was trained with"


def _place(
    path: str,
    name: str,
    kind: str | None,
    value: Tensor,
    old: str | None,
    codebase: str,
    converted: dict[str, Tensor],
    report: CheckpointReport,
) -> None:
    new = _rename(path, name, kind, codebase)
    if new is None:
        report.unmatched += [old] if old else []
    elif new == _NO_PLACE:
        if old is not None:
            report.dropped[old] = f'of the classifier of ImageNet, which has no place in {codebase}'
    elif new in converted:
        raise ValueError(f'{old} would become {new}, which another entry has become before')
    else:
        converted[new] = _reorder_classes(new, value)
        if old is None:
            report.added.append(new)
        elif old == new:
            report.kept.append(old)
        else:
            report.renamed[old] = new


def _rename(path: str, name: str, kind: str | None, codebase: str) -> str | None:
    """The new key; None if no place is known, '' if there is none."""
    key = join(path, name)
    for pattern, replacement in _RESNETS:
        key = re.sub(f'^{pattern}', replacement, key)
    if kind is not None:
        key = re.sub(rf'(^|\.)(?:sn|bn)(\d)\.{re.escape(name)}$', rf'\1norm\2.{name}', key)
    for pattern, replacement in _PLACES[codebase]:
        if re.match(pattern, key):
            if replacement == _NO_PLACE:
                return _NO_PLACE
            key = re.sub(f'^{pattern}', replacement, key)
            break
    else:
        return None
    abbreviation = None if kind is None else _ABBREVIATIONS.get(kind)
    key = re.sub(r'(^|\.)norm(\d)\.', rf'\1{abbreviation}\2.', key)
    key = _BARE_CONVOLUTION.sub(r'\1.conv.\2', key)
    for sequential, length, form in _SEQUENTIALS:
        match = sequential.match(key)
        if match is None:
            continue
        module, position = divmod(int(match[2]), length)
        if position != (0 if kind is None else 1):
            # Another Sequential, e.g. without norms.
            return None
        key = form.format(match[1], module, abbreviation or 'conv') + key[match.end() :]
    return key


def _reorder_classes(key: str, value: Tensor) -> Tensor:
    """Detectron's background is the first class; mmdet has it last for the scores, and nowhere else."""
    if key.startswith('roi_head.bbox_head.fc_cls.'):
        return value.roll(-1, 0)
    if key.startswith('roi_head.bbox_head.fc_reg.'):
        return value[4:].clone()
    return value[1:].clone() if key.startswith('roi_head.mask_head.conv_logits.') else value
