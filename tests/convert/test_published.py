"""Published checkpoints of SN and ILM, synthesized: they load strictly, and the networks compute the same."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from published import Decoder, Detector, PublishedILM, PublishedSN, detectron_names, features, sn_names
from torchvision.models import resnet50

import mmnorm
from mmnorm.convert.published import convert_published

X = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def build(scope, **model):
    """A model of a codebase in float64 and eval mode."""
    init_default_scope(scope)
    if scope == 'mmpretrain':
        import mmpretrain.models  # noqa: F401
        from mmpretrain.registry import MODELS
    elif scope == 'mmseg':
        import mmseg.models  # noqa: F401
        from mmseg.registry import MODELS
    else:
        import mmdet.models  # noqa: F401
        from mmdet.registry import MODELS
    return MODELS.build(model).double().eval()


def classifier(norm_cfg):
    head = dict(type='LinearClsHead', num_classes=1000, in_channels=2048)
    backbone = dict(type='ResNet', depth=50, norm_cfg=norm_cfg)
    return build(
        'mmpretrain', type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head
    )


def difference(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def assert_equal(actual, expected):
    assert actual.shape == expected.shape
    assert difference(actual, expected) < 1e-10


@pytest.fixture(scope='module')
def sn_resnet():
    torch.manual_seed(0)
    return resnet50(norm_layer=PublishedSN).double().eval()


@torch.no_grad()
@pytest.mark.parametrize('rename', [sn_names, detectron_names])
def test_sn_resnet_in_mmpretrain(sn_resnet, rename):
    converted, report = convert_published(rename(sn_resnet.state_dict()), 'mmpretrain')
    model = classifier(dict(type='SN'))
    model.load_state_dict(converted, strict=True)
    assert_equal(model(X, mode='tensor'), sn_resnet(X))
    assert not report.unmatched
    assert not report.dropped
    assert len(report.added) == 53
    assert report.notes == ["53 norms of norm_cfg=dict(type='SN')"]


@torch.no_grad()
@pytest.mark.parametrize('size', [4, 8, 16])
def test_unbiased_variances_of_the_published_code_are_a_small_difference(size, monkeypatch):
    monkeypatch.setattr(PublishedSN, 'unbiased', True)
    twin = PublishedSN(64).double()
    twin.bias.zero_()
    converted, _ = convert_published({f'sn1.{key}': value for key, value in twin.state_dict().items()}, 'mmpretrain')
    layer = mmnorm.SwitchableNorm2d(64).double().eval()
    layer.load_state_dict({key.rpartition('.')[2]: value for key, value in converted.items()})
    x = torch.randn(2, 64, size, size, dtype=torch.float64)
    # Variances of L positions are larger by L / (L - 1), so scales are smaller by half of 1 / (L - 1) at most.
    assert 0 < difference(twin(x), layer(x)) < 0.51 / (size**2 - 1)


@torch.no_grad()
def test_sn_without_batch_norm(monkeypatch):
    """using_bn=False, as the (8, 1) checkpoints were trained."""
    monkeypatch.setattr(PublishedSN, 'using_bn', False)
    twin = PublishedSN(64).double()
    converted, report = convert_published(
        {f'sn1.{key}': value for key, value in twin.state_dict().items()}, 'mmpretrain'
    )
    assert report.notes == ["1 norms of norm_cfg=dict(type='SN', normalizers=('IN', 'LN'))"]
    layer = mmnorm.SwitchableNorm2d(64, normalizers=('IN', 'LN')).double()
    layer.load_state_dict({key.rpartition('.')[2]: value for key, value in converted.items()}, strict=True)
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64)
    assert_equal(layer(x), twin(x))


@torch.no_grad()
def test_sn_segmentation_in_mmseg(sn_resnet):
    twin = resnet50(norm_layer=PublishedSN, replace_stride_with_dilation=[False, True, True]).double().eval()
    twin.load_state_dict(sn_resnet.state_dict())
    decoder = Decoder().double().eval()
    converted, report = convert_published([sn_names(twin.state_dict()), decoder.state_dict()], 'mmseg')
    assert report.dropped.keys() == {'fc.weight', 'fc.bias'}
    assert not report.unmatched
    head = dict(type='FCNHead', channels=512, num_convs=1, concat_input=False, num_classes=150)
    backbone = dict(type='ResNet', depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True)
    model = build(
        'mmseg',
        type='EncoderDecoder',
        backbone=dict(norm_cfg=dict(type='SN'), norm_eval=False, **backbone),
        decode_head=dict(in_channels=2048, in_index=3, norm_cfg=dict(type='SN'), **head),
        auxiliary_head=dict(in_channels=1024, in_index=2, norm_cfg=dict(type='SN'), **head),
    )
    model.load_state_dict(converted, strict=True)
    found = model.backbone(X)
    outputs = model.decode_head(found), model.auxiliary_head(found)
    for output, expected in zip(outputs, decoder(features(twin, X)), strict=True):
        assert_equal(output, expected)


@torch.no_grad()
def test_sn_detector_in_mmdet():
    torch.manual_seed(0)
    twin = Detector().double().eval()
    converted, report = convert_published(twin.checkpoint()['model'], 'mmdet')
    assert not report.unmatched
    assert not report.dropped
    cfg = Config.fromfile('configs/mask_rcnn_sn_r50_fpn.py')
    cfg.model.backbone.init_cfg = None
    model = build('mmdet', **cfg.model)
    model.load_state_dict(converted, strict=True)
    levels = model.neck(model.backbone(X))
    for level, expected in zip(levels, twin.pyramid(X), strict=True):
        assert_equal(level, expected)
    for output, expected in zip(model.rpn_head.forward_single(levels[0]), twin.proposals(levels[0]), strict=True):
        assert_equal(output, expected)
    rois = torch.randn(2, 256, 7, 7, dtype=torch.float64)
    (scores, deltas), (expected_scores, expected_deltas) = model.roi_head.bbox_head(rois), twin.boxes(rois)
    assert_equal(scores, torch.cat([expected_scores[:, 1:], expected_scores[:, :1]], 1))  # the background comes last
    assert_equal(deltas, expected_deltas[:, 4:])
    rois = torch.randn(2, 256, 14, 14, dtype=torch.float64)
    assert_equal(model.roi_head.mask_head(rois), twin.masks(rois)[:, 1:])


@torch.no_grad()
def test_ilm_in_mmpretrain(monkeypatch):
    twin = resnet50(norm_layer=PublishedILM).double().eval()
    state_dict = {f'module.{key}': value for key, value in twin.state_dict().items()}
    converted, report = convert_published(state_dict, 'mmpretrain')
    assert not report.unmatched
    assert set(report.dropped.values()) == {'the same as the encoder, fc_embed.0.weight'}
    assert len(report.dropped) == 2 * 53
    model = classifier(dict(type='ILM'))
    model.load_state_dict(converted, strict=True)
    output = model(X, mode='tensor')
    assert_equal(output, twin(X))
    # As the script has it. Groups are larger than planes, so this matters less than for SN.
    monkeypatch.setattr(PublishedILM, 'unbiased', True)
    assert 0 < difference(output, twin(X)) < 0.05


def test_padded_embedding_of_ilm_can_learn():
    twin = PublishedILM(256)
    twin.fc_embed[0].weight.data.abs_()  # so that ReLU lets something through
    converted, _ = convert_published({f'bn1.{key}': value for key, value in twin.state_dict().items()}, 'mmpretrain')
    layer = mmnorm.InstanceMetaNorm2d(256)
    layer.load_state_dict({key.rpartition('.')[2]: value for key, value in converted.items()}, strict=True)
    x = torch.randn(2, 256, 4, 4)
    torch.testing.assert_close(layer(x), twin(x))
    (layer(x) ** 3).sum().backward()
    assert layer.var_decoder_weight.grad[:, 1].any()


def test_ilm_for_cifar_in_mmpretrain():
    """lib/net/resnet_cifar.py: shortcut and linear instead of downsample and fc."""
    model = build(
        'mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, norm_cfg=dict(type='ILM')),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
    ).float()
    published = {}
    for key, value in model.state_dict().items():
        if key.endswith(('weight', 'bias')) and 'gn' not in key and 'downsample.1' not in key:
            key = key.replace('backbone.', '').replace('downsample', 'shortcut').replace('head.fc', 'linear')
            published[f'module.{key}'] = torch.randn_like(value)
    for name, norm in model.named_modules():
        if isinstance(norm, mmnorm.InstanceMetaNorm2d):
            name = name.replace('backbone.', '').replace('gn', 'bn').replace('downsample', 'shortcut')
            twin = PublishedILM(norm.num_features)
            published.update({f'module.{name}.{key}': value for key, value in twin.state_dict().items()})
    converted, report = convert_published(published, 'mmpretrain')
    model.load_state_dict(converted, strict=True)
    assert not report.unmatched
    assert torch.equal(model.head.fc.weight, published['module.linear.weight'])


def sn_entries(path, channels=4):
    return {f'{path}.{name}': value for name, value in PublishedSN(channels).state_dict().items()}


def test_detector_without_pyramid():
    """Conv_Body without conv_body, RPN_conv without FPN_, res5 in the head: the R-50-C4 models."""
    conv = torch.ones(1)
    published = {'Conv_Body.res1.conv1.weight': conv, **sn_entries('Conv_Body.res1.sn1')}
    published |= {'Box_Head.res5.0.conv1.weight': conv, **sn_entries('Box_Head.res5.0.sn1')}
    published |= {'Box_Head.res5.0.downsample.0.weight': conv, **sn_entries('Box_Head.res5.0.downsample.1')}
    published |= {'RPN.RPN_conv.weight': conv, 'RPN.RPN_cls_score.bias': conv, 'Keypoint_Outs.weight': conv}
    converted, report = convert_published(published, 'mmdet')
    modules = {key.rpartition('.')[0] for key in converted}
    assert modules == {
        'backbone.conv1',
        'backbone.bn1',
        'roi_head.shared_head.layer4.0.conv1',
        'roi_head.shared_head.layer4.0.bn1',
        'roi_head.shared_head.layer4.0.downsample.0',
        'roi_head.shared_head.layer4.0.downsample.1',
        'rpn_head.rpn_conv',
        'rpn_head.rpn_cls',
    }
    assert report.unmatched == ['Keypoint_Outs.weight']
    assert '    Keypoint_Outs.weight' in str(report).splitlines()


def test_every_entry_is_in_the_report():
    published = detectron_names(sn_entries('sn1')) | {'Box_Head.convs.2.weight': torch.ones(1), 'ema': torch.ones(1)}
    published |= {'Conv_Body.conv_top.bias': torch.ones(1), 'Conv_Body.conv_body.classifier.bias': torch.ones(1)}
    published['Conv_Body.conv_body.res1.sn1.batch_mean'] = torch.ones(1, 4, 1)
    converted, report = convert_published(published, 'mmdet')
    told = [*report.kept, *report.renamed, *report.dropped, *report.unmatched]
    assert sorted(told) == sorted(published)
    assert sorted([*report.kept, *report.renamed.values(), *report.added]) == sorted(converted)
    # No norm between these convolutions, so they are of another head.
    assert report.unmatched == ['Box_Head.convs.2.weight', 'ema']
    assert report.renamed['Conv_Body.conv_top.bias'] == 'neck.lateral_convs.3.conv.bias'


def test_statistics_that_were_never_collected():
    published = sn_entries('sn1')
    published['sn1.running_var'].zero_()
    _, report = convert_published(published, 'mmpretrain')
    assert any('re-estimate' in note for note in report.notes)


def shared_otherwise():
    state_dict = {f'bn1.{key}': value.clone() for key, value in PublishedILM(64).state_dict().items()}
    state_dict['bn1.fc_bias.0.0.weight'] += 1
    return state_dict


REFUSED = [
    ({'conv1.weight': torch.ones(1)}, 'no SN'),
    ({'bn1.weight': torch.ones(4), 'bn1.running_mean': torch.ones(4)}, 'no SN'),
    ({**sn_entries('sn1'), **sn_entries('sn_out')}, 'pre-activation'),
    ({**sn_entries('sn1'), **sn_entries('module.sn1')}, 'which another entry has become'),
    ({**sn_entries('sn1'), 'sn1.mean_weight': torch.ones(4)}, 'mixes 4 normalizers'),
    ({'bn1.weight_bias': torch.ones(4), 'bn1.bias_bias': torch.ones(4)}, 'fc_embed.0.weight is missing'),
    (shared_otherwise(), 'is not the encoder'),
]


@pytest.mark.parametrize(('state_dict', 'message'), REFUSED, ids=[message for _, message in REFUSED])
def test_refused(state_dict, message):
    with pytest.raises(ValueError, match=message):
        convert_published(state_dict, 'mmpretrain')
