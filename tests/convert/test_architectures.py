"""Networks of many kinds, converted, compute a loss and its gradients: what a build alone would not show."""

import importlib
from itertools import cycle

import pytest
import torch
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from torch.nn.modules.batchnorm import _BatchNorm

from mmnorm.convert.configs import set_norm
from mmnorm.layers.base import LearnedNorm
from mmnorm.registry import NORMS

# A ResNet-50 an eighth as wide, and what then follows it.
NARROW = {'backbone.base_channels': 8}
CLS = {**NARROW, 'head.in_channels': 256}
SEG = {**NARROW, 'decode_head.in_channels': 256, 'decode_head.channels': 16, 'auxiliary_head': None}
DET = {**NARROW, 'neck.in_channels': [32, 64, 128, 256]}
CITYSCAPES = '4xb2-40k_cityscapes-512x1024.py'

# What to change in the model of a config so that it is small and takes small images.
ARCHITECTURES = {
    'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py': {**NARROW, 'neck.in_channels': 256},
    'mmpretrain::conformer/conformer-tiny-p16_8xb128_in1k.py': {},
    'mmpretrain::convmixer/convmixer-1024-20_10xb64_in1k.py': {},
    'mmpretrain::cspnet/cspdarknet50_8xb32_in1k.py': {},
    'mmpretrain::cspnet/cspresnet50_8xb32_in1k.py': {},
    'mmpretrain::densenet/densenet121_4xb256_in1k.py': {},
    'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py': {},
    'mmpretrain::efficientnet_v2/efficientnetv2-b0_8xb32_in1k.py': {},
    'mmpretrain::hrnet/hrnet-w18_4xb32_in1k.py': {},
    'mmpretrain::inception_v3/inception-v3_8xb32_in1k.py': {'backbone.aux_logits': False},
    'mmpretrain::levit/levit-128s_8xb256_in1k.py': {'backbone.img_size': 64, 'head.distillation': False},
    'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py': {},
    'mmpretrain::mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py': {},
    'mmpretrain::mobileone/mobileone-s0_8xb32_in1k.py': {},
    'mmpretrain::mobilevit/mobilevit-xsmall_8xb128_in1k.py': {},
    'mmpretrain::regnet/regnetx-400mf_8xb128_in1k.py': {},
    'mmpretrain::repvgg/repvgg-A0_8xb32_in1k.py': {},
    'mmpretrain::res2net/res2net50-w14-s8_8xb32_in1k.py': {},
    'mmpretrain::resnest/resnest50_32xb64_in1k.py': {},
    'mmpretrain::resnet/resnet50_8xb32_in1k.py': CLS,
    'mmpretrain::resnext/resnext50-32x4d_8xb32_in1k.py': {},
    'mmpretrain::seresnet/seresnet50_8xb32_in1k.py': CLS,
    'mmpretrain::shufflenet_v1/shufflenet-v1-1x_16xb64_in1k.py': {},
    'mmpretrain::shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py': {},
    'mmpretrain::tinyvit/tinyvit-5m_8xb256_in1k.py': {'backbone.img_size': [64, 64], 'backbone.window_size': [2] * 4},
    'mmpretrain::van/van-tiny_8xb128_in1k.py': {},
    'mmpretrain::vgg/vgg11bn_8xb32_in1k.py': {
        'backbone.num_classes': -1,
        'neck': dict(_delete_=True, type='GlobalAveragePooling'),
        'head': dict(_delete_=True, type='LinearClsHead', num_classes=9, in_channels=512),
    },
    'mmpretrain::xcit/xcit-nano-12-p16_8xb128_in1k.py': {},
    f'mmseg::ann/ann_r50-d8_{CITYSCAPES}': {
        **SEG,
        'decode_head.in_channels': [128, 256],
        'decode_head.project_channels': 16,
    },
    f'mmseg::apcnet/apcnet_r50-d8_{CITYSCAPES}': SEG,
    'mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py': {},
    'mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py': {},
    'mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py': {},
    f'mmseg::danet/danet_r50-d8_{CITYSCAPES}': {**SEG, 'decode_head.pam_channels': 8},
    'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py': {},
    f'mmseg::deeplabv3/deeplabv3_r50-d8_{CITYSCAPES}': SEG,
    f'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_{CITYSCAPES}': {
        **SEG,
        'decode_head.c1_in_channels': 32,
        'decode_head.c1_channels': 8,
    },
    f'mmseg::dmnet/dmnet_r50-d8_{CITYSCAPES}': SEG,
    f'mmseg::dnlnet/dnl_r50-d8_{CITYSCAPES}': SEG,
    'mmseg::emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py': SEG,
    f'mmseg::encnet/encnet_r50-d8_{CITYSCAPES}': {**SEG, 'decode_head.in_channels': [64, 128, 256]},
    'mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py': {},
    'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py': {},
    f'mmseg::fcn/fcn_r50-d8_{CITYSCAPES}': SEG,
    f'mmseg::gcnet/gcnet_r50-d8_{CITYSCAPES}': SEG,
    'mmseg::icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py': {},
    f'mmseg::isanet/isanet_r50-d8_{CITYSCAPES}': SEG,
    f'mmseg::nonlocal_net/nonlocal_r50-d8_{CITYSCAPES}': SEG,
    f'mmseg::ocrnet/ocrnet_hr18s_{CITYSCAPES}': {},
    'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py': {},
    f'mmseg::pspnet/pspnet_r50-d8_{CITYSCAPES}': SEG,
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': {},
    'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py': {},
    'mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py': DET,
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py': {},
    'mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py': {
        'backbone.base_channels': 16,
        'decode_head.in_channels': 16,
        'auxiliary_head': None,
    },
    f'mmseg::upernet/upernet_r50_{CITYSCAPES}': {**SEG, 'decode_head.in_channels': [32, 64, 128, 256]},
    'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py': {},
    'mmdet::detr/detr_r18_8xb2-500e_coco.py': {},
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': DET,
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': DET,
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py': DET,
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': DET,
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py': DET,
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py': {'data_preprocessor.batch_augments': None},
    'mmdet::solov2/solov2-light_r18_fpn_ms-3x_coco.py': {},
    'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py': {},
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py': {**NARROW, 'neck.in_channels': 256},
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py': {'data_preprocessor.batch_augments': None},
}


def batch_of(scope, model, model_cfg):
    """Two random images with labels, as the data preprocessor hands them to the model."""
    size = (96, 96) if 'InceptionV3' in str(model_cfg) else (64, 64)
    if scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        masks = 'mask' in str(list(model_cfg)) + str(list(model_cfg.get('roi_head') or ()))
        shapes = [[3, *size]] * 2
        data = demo_mm_inputs(2, shapes, num_items=[2, 2], num_classes=2, with_mask=masks, use_box_type=True)
        return model.data_preprocessor(data, training=True)
    images = torch.randn(2, 3, *size)
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(label) for label in (0, 1)]
        return dict(inputs=[images, images] if hasattr(model, 'target_net') else images, data_samples=samples)
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(metainfo=dict(img_shape=size)) for _ in range(2)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.randint(2, (1, *size)))
        sample.gt_edge_map = PixelData(data=torch.randint(2, (1, *size)))
    return dict(inputs=images, data_samples=samples)


def build(name, norm):
    scope = name.partition('::')[0]
    importlib.import_module(scope)
    init_default_scope(scope)
    cfg = get_config(name)
    cfg.merge_from_dict({f'model.{key}': value for key, value in ARCHITECTURES[name].items()})
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if norm is not None:
        set_norm(cfg, dict(type=norm))
    return MODELS.build(cfg.model), scope, cfg.model


def test_there_are_enough():
    assert len(ARCHITECTURES) >= 40


def backward(model, scope, model_cfg):
    model.train()
    losses = model(**batch_of(scope, model, model_cfg), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    return loss


# Those of the papers take turns; the others go through a segmentor and a detector each.
PAPERS = ('EN', 'ILM', 'SN', 'SSN')
TWO = (f'mmseg::deeplabv3/deeplabv3_r50-d8_{CITYSCAPES}', 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
CASES = [*zip(ARCHITECTURES, cycle(PAPERS)), *((name, norm) for name in TWO for norm in NORMS if norm not in PAPERS)]


@pytest.mark.parametrize(('name', 'norm'), CASES)
def test_forward_and_backward(name, norm):
    model, scope, model_cfg = build(name, norm)
    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    norms = {module: path for path, module in model.named_modules() if isinstance(module, LearnedNorm)}
    used = set()
    for module in norms:
        module.register_forward_hook(lambda module, *_: used.add(module))

    try:
        loss = backward(model, scope, model_cfg)
    except RuntimeError as error:
        if 'modified by an inplace operation' not in str(error):
            raise
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            backward(*build(name, norm=None))
        pytest.skip('its own forward changes what its backward needs, with BatchNorm too')

    assert torch.isfinite(loss)
    assert len(used) > len(norms) / 2
    for module in used:
        for parameter, value in module.named_parameters():
            if value.requires_grad:
                assert value.grad is not None, f'no gradient reaches {norms[module]}.{parameter}'
                assert torch.isfinite(value.grad).all(), f'gradient of {norms[module]}.{parameter}'
