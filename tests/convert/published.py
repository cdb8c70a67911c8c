"""The published networks, as far as their checkpoints go: names and shapes, and the formulas written plainly.

PyTorch's own ResNet has the names of theirs, up to those of the norms.
"""

import re
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50

EPS = 1e-5


class PublishedSN(nn.Module):
    """``SwitchNorm2d`` of devkit/ops/switchable_norm.py, in eval mode; ``unbiased`` as there, or as in the paper."""

    unbiased = False
    using_bn = True

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(1 + 0.2 * torch.randn(1, channels, 1, 1))
        self.bias = nn.Parameter(0.2 * torch.randn(1, channels, 1, 1))
        pool = 3 if self.using_bn else 2
        self.mean_weight, self.var_weight = (nn.Parameter(torch.randn(pool)) for _ in range(2))
        if self.using_bn:
            self.register_buffer('running_mean', 0.2 * torch.randn(1, channels, 1))
            self.register_buffer('running_var', 0.5 + torch.rand(1, channels, 1))

    def forward(self, x):
        planes = x.flatten(2)
        mean, var = planes.mean(2, keepdim=True), planes.var(2, unbiased=self.unbiased, keepdim=True)
        means, variances = [mean], [var]
        layer_mean = mean.mean(1, keepdim=True)
        means.append(layer_mean)
        variances.append((var + mean**2).mean(1, keepdim=True) - layer_mean**2)
        if self.using_bn:
            means.append(self.running_mean)
            variances.append(self.running_var)
        mean = sum(w * m for w, m in zip(self.mean_weight.softmax(0), means, strict=True))
        var = sum(w * v for w, v in zip(self.var_weight.softmax(0), variances, strict=True))
        y = ((planes - mean) / (var + EPS).sqrt()).view_as(x)
        return y * self.weight + self.bias


class PublishedILM(nn.Module):
    """``ilm_gn`` of lib/nn/ilm_gn.py."""

    unbiased = False

    def __init__(self, channels, num_groups=32, key_group_size=16, reduction=16):
        super().__init__()
        self.num_groups, self.key_groups = num_groups, channels // key_group_size
        size = self.key_groups // reduction if self.key_groups >= reduction else 2
        linear = lambda i, o: nn.Linear(i, o, bias=False)  # noqa: E731
        self.fc_embed = nn.Sequential(linear(self.key_groups, size), nn.ReLU())
        self.fc_weight = nn.Sequential(self.fc_embed, linear(size, self.key_groups), nn.Sigmoid())
        self.fc_bias = nn.Sequential(self.fc_embed, linear(size, self.key_groups), nn.Tanh())
        self.weight_bias = nn.Parameter(0.5 + 0.2 * torch.randn(1, channels, 1, 1))
        self.bias_bias = nn.Parameter(0.2 * torch.randn(1, channels, 1, 1))

    def _moments(self, x, groups):
        x = x.reshape(x.shape[0], groups, -1)
        return x.mean(2), x.var(2, unbiased=self.unbiased)

    def forward(self, x):
        key_mean, key_var = self._moments(x, self.key_groups)
        omega, beta = (
            net(key).repeat_interleave(x.shape[1] // self.key_groups, 1)[:, :, None, None]
            for net, key in ((self.fc_weight, key_var), (self.fc_bias, key_mean))
        )
        mean, var = (t[:, :, None] for t in self._moments(x, self.num_groups))
        y = ((x.reshape(x.shape[0], self.num_groups, -1) - mean) / (var + EPS).sqrt()).view_as(x)
        return y * (omega + self.weight_bias) + (beta + self.bias_bias)


def sn_names(state_dict, prefix=''):
    """``sn1`` where torchvision has ``bn1``: imagenet/models/resnet_v1_sn.py."""
    return {prefix + re.sub(r'(^|\.)bn(\d)\.', r'\1sn\2.', key): value for key, value in state_dict.items()}


def detectron_names(state_dict, prefix='Conv_Body.conv_body.'):
    """``res1`` to ``res5``: lib/modeling/ResNet.py of the detection code, tools/convert.py for the classifier."""
    names = {}
    for key, value in sn_names(state_dict).items():
        key = re.sub(r'^(conv1|sn1)\.', r'res1.\1.', key)
        key = re.sub(r'^layer(\d)\.', lambda match: f'res{int(match[1]) + 1}.', key)
        names[prefix + key.replace('fc.', 'classifier.')] = value
    return names


class Decoder(nn.Module):
    """``C1BilinearDeepSup`` of models/models.py of the segmentation code, before the softmax."""

    def __init__(self, classes=150):
        super().__init__()
        self.cbr, self.cbr_deepsup = (
            nn.Sequential(nn.Conv2d(c, 512, 3, padding=1, bias=False), PublishedSN(512), nn.ReLU())
            for c in (2048, 1024)
        )
        self.conv_last, self.conv_last_deepsup = (nn.Conv2d(512, classes, 1) for _ in range(2))

    def forward(self, features):
        return self.conv_last(self.cbr(features[3])), self.conv_last_deepsup(self.cbr_deepsup(features[2]))


def features(resnet, x):
    """What the four stages of a torchvision ResNet give."""
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
    found = []
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        x = stage(x)
        found.append(x)
    return found


def _conv_sn(inputs, kernel, *relu):
    return nn.Sequential(nn.Conv2d(inputs, 256, kernel, padding=kernel // 2, bias=False), PublishedSN(256), *relu)


class Detector(nn.Module):
    """``Generalized_RCNN`` with FPN and masks: model_builder.py, FPN.py, fast_rcnn_heads.py, mask_rcnn_heads.py."""

    def __init__(self, classes=81):
        super().__init__()
        self.body = resnet50(norm_layer=PublishedSN)
        self.Conv_Body = nn.Module()
        self.Conv_Body.conv_top = _conv_sn(2048, 1)
        self.Conv_Body.topdown_lateral_modules = nn.ModuleList()
        for channels in (1024, 512, 256):
            lateral = nn.Module()
            lateral.conv_lateral = _conv_sn(channels, 1)
            self.Conv_Body.topdown_lateral_modules.append(lateral)
        self.Conv_Body.posthoc_modules = nn.ModuleList(_conv_sn(256, 3) for _ in range(4))
        self.RPN = nn.Module()
        self.RPN.FPN_RPN_conv = nn.Conv2d(256, 256, 3, padding=1)
        self.RPN.FPN_RPN_cls_score, self.RPN.FPN_RPN_bbox_pred = nn.Conv2d(256, 3, 1), nn.Conv2d(256, 12, 1)
        self.Box_Head, self.Mask_Head, self.Box_Outs, self.Mask_Outs = (nn.Module() for _ in range(4))
        self.Box_Head.convs = nn.Sequential(*(layer for _ in range(4) for layer in _conv_sn(256, 3, nn.ReLU())))
        self.Box_Head.fc = nn.Linear(256 * 7 * 7, 1024)
        self.Box_Outs.cls_score, self.Box_Outs.bbox_pred = nn.Linear(1024, classes), nn.Linear(1024, 4 * classes)
        self.Mask_Head.conv_fcn = nn.Sequential(*(layer for _ in range(4) for layer in _conv_sn(256, 3, nn.ReLU())))
        self.Mask_Head.upconv = nn.ConvTranspose2d(256, 256, 2, 2)
        self.Mask_Outs.classify = nn.Conv2d(256, classes, 1)

    def checkpoint(self):
        """As lib/utils/net.py saves it."""
        state_dict = self.state_dict()
        body = {key[5:]: state_dict.pop(key) for key in list(state_dict) if key.startswith('body.')}
        body = {key: value for key, value in body.items() if not key.startswith('fc.')}
        return {'step': 7, 'model': OrderedDict(**detectron_names(body), **state_dict), 'optimizer': {'state': {}}}

    def pyramid(self, x):
        """The levels that FPN gives, the finest first."""
        stages = features(self.body, x)
        inner = [self.Conv_Body.conv_top(stages[3])]
        for i, module in enumerate(self.Conv_Body.topdown_lateral_modules):
            inner.append(module.conv_lateral(stages[2 - i]) + F.interpolate(inner[-1], scale_factor=2, mode='nearest'))
        outputs = [module(x) for module, x in zip(self.Conv_Body.posthoc_modules, inner, strict=True)]
        return outputs[::-1] + [outputs[0][:, :, ::2, ::2]]

    def proposals(self, level):
        hidden = self.RPN.FPN_RPN_conv(level).relu()
        return self.RPN.FPN_RPN_cls_score(hidden), self.RPN.FPN_RPN_bbox_pred(hidden)

    def boxes(self, rois):
        hidden = self.Box_Head.fc(self.Box_Head.convs(rois).flatten(1)).relu()
        return self.Box_Outs.cls_score(hidden), self.Box_Outs.bbox_pred(hidden)

    def masks(self, rois):
        return self.Mask_Outs.classify(self.Mask_Head.upconv(self.Mask_Head.conv_fcn(rois)).relu())
