"""Whole layers on the Triton kernels against plain operators: on the GPU where there is one, else interpreted."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from helpers import assert_same, outputs_and_gradients, randomize

import mmnorm
from mmnorm.ops import Activation, normalize

triton = pytest.importorskip('triton', minversion='3.4')
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
LAYERS = {'SN': mmnorm.SwitchableNorm2d, 'EN': mmnorm.ExemplarNorm2d, 'ILM': mmnorm.InstanceMetaNorm2d}


@pytest.mark.skipif(INTERPRETED or DEVICE == 'cuda', reason='the tests below run right here')
def test_layers_in_the_interpreter():
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', __file__]
    done = subprocess.run(command, env=os.environ | {'TRITON_INTERPRET': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]


def run(layer, x, backend):
    before = mmnorm.set_backend(backend)
    layer = copy.deepcopy(layer)
    try:
        result = outputs_and_gradients(lambda x: layer(x.to(DEVICE)).cpu(), layer, x)
    finally:
        mmnorm.set_backend(before)
    result |= dict(layer.named_buffers())
    return {key: t.double().cpu() for key, t in result.items()}


if INTERPRETED or DEVICE == 'cuda':

    @pytest.mark.parametrize('training', [True, False])
    @pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize('name', LAYERS)
    def test_triton_gives_the_reference(name, dtype, memory_format, training):
        layer = randomize(LAYERS[name](24)).to(DEVICE, dtype).train(training)
        x = (torch.randn(3, 24, 5, 7, dtype=dtype) + 0.5).contiguous(memory_format=memory_format)
        exact = run(copy.deepcopy(layer).double(), x.double(), 'reference')
        assert_same(run(layer, x, 'triton'), exact, tolerance=1e-10 if dtype == torch.float64 else 2e-5)

    @pytest.mark.parametrize('name', LAYERS)
    def test_triton_in_half_precision(name):
        layer = randomize(LAYERS[name](24)).to(DEVICE)
        x = torch.randn(3, 24, 5, 7).bfloat16()
        exact = run(copy.deepcopy(layer).double(), x.double(), 'reference')
        assert_same(run(layer, x, 'triton'), exact, tolerance=0.02)

    @pytest.mark.parametrize('name', LAYERS)
    def test_gradients_of_gradients(name):
        layer = randomize(LAYERS[name](24)).to(DEVICE, torch.float64)
        inputs = torch.randn(2, 24, 3, 2, dtype=torch.float64).to(DEVICE).requires_grad_(), *layer.parameters()
        results = []
        for backend in ('triton', 'reference'):
            before = mmnorm.set_backend(backend)
            try:
                y = layer(inputs[0])
                first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
                second = torch.autograd.grad(sum(t.square().sum() for t in first), inputs)
            finally:
                mmnorm.set_backend(before)
            results.append({str(i): t.detach().cpu() for i, t in enumerate((y, *first, *second))})
        assert_same(*results)

    @pytest.mark.parametrize('activation', [None, 'relu'])
    def test_coefficients_that_all_samples_share(activation):
        """Their memory has no place for a plane of each sample."""
        x = torch.randn(3, 24, 5, 7, dtype=torch.float64).to(DEVICE).requires_grad_()
        weight, bias = (torch.randn(24, dtype=torch.float64).to(DEVICE).requires_grad_() for _ in range(2))

        def coefficients(mean, var, positions):
            return weight[None], bias[None]

        results = []
        for backend in ('triton', 'reference'):
            before = mmnorm.set_backend(backend)
            try:
                y = normalize(x, coefficients, activation and Activation(activation))
                results.append([y, *torch.autograd.grad(y.square().sum(), [x, weight, bias])])
            finally:
                mmnorm.set_backend(before)
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)
