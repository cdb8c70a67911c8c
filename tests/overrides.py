"""Layers whose coefficients are not their parents', each by another way of saying so."""

import types

import torch

import mmnorm

BASES = {'SN': mmnorm.SwitchableNorm2d, 'EN': mmnorm.ExemplarNorm2d, 'ILM': mmnorm.InstanceMetaNorm2d}
OPTIONS = {'SN': {}, 'EN': dict(reduction=4, expansion=5), 'ILM': dict(num_groups=4, key_group_size=2)}


def coefficients(self, mean, var, positions, update_running_stats=True):
    scale, shift = super(type(self), self).coefficients(mean, var, positions, update_running_stats)
    return 2 * scale, shift + mean


def by_channel(self, mean, var, positions, update_running_stats=True):
    """Broadcastable to (N, C), and no more."""
    gain = self.weight.to(mean.dtype).reshape(-1, mean.shape[1]).sum(0, keepdim=True)
    return gain, gain.square()


def pool(self, mean, var, positions, update_running_stats=True):
    deviations, variances = super(type(self), self).pool(mean, var, positions, update_running_stats)
    return deviations / 2, variances * 3


def ratios(self, *args):
    return super(type(self), self).ratios(*args).square()


def predict(self, mean, var):
    omega, beta = super(type(self), self).predict(mean, var)
    return omega * 2, beta - 1


COMMON = [coefficients, by_channel]
FUNCTIONS = {'SN': [*COMMON, pool, ratios], 'EN': [*COMMON, pool, ratios], 'ILM': [*COMMON, predict]}


class Mixin:
    """Of no base, and before the norm in the order of resolution."""

    def coefficients(self, *args, **kwargs):
        scale, shift = super().coefficients(*args, **kwargs)
        return 3 * scale, shift


def subclass(base, function):
    name = 'coefficients' if function is by_channel else function.__name__
    return type('Overriding', (base,), {name: function})


def mixed(base):
    return type('Mixed', (Mixin, base), {})


def patched(base):
    """A function that makes layers whose coefficients were patched one by one."""

    def make(*args, **kwargs):
        layer = base(*args, **kwargs)

        def coefficients(self, mean, var, positions, update_running_stats=True):
            scale, shift = base.coefficients(self, mean, var, positions, update_running_stats)
            return scale, shift + 5

        layer.coefficients = types.MethodType(coefficients, layer)
        return layer

    return make


CASES = {f'{name}-{f.__name__}': (name, subclass(BASES[name], f)) for name in BASES for f in FUNCTIONS[name]}
CASES |= {f'{name}-mixin': (name, mixed(base)) for name, base in BASES.items()}
CASES |= {f'{name}-instance': (name, patched(base)) for name, base in BASES.items()}


def make(case, channels=8):
    """A layer of ``case`` and one of its parent, both in float64, of the same random parameters."""
    name, factory = CASES[case]
    layer, parent = (make(channels, **OPTIONS[name]).double() for make in (factory, BASES[name]))
    with torch.no_grad():
        for t in layer.state_dict().values():
            if t.is_floating_point():
                t.copy_(torch.rand(t.shape) + 0.2)
    parent.load_state_dict(layer.state_dict())
    return layer, parent
