"""Random calls of ``mmnorm._C``: what is valid gives the plain operators' result, what is not an error.

Run by test_direct_calls.py in a process of its own, as what it looks for is the end of the process::

    python tests/ops/fuzz_operators.py --calls 10000 --seed 0
"""

import argparse
import math
import random
import warnings
from collections import Counter

import torch

from mmnorm import ops
from mmnorm.ops.passes import native, reference

_C = native.load()
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
HALF = (torch.float16, torch.bfloat16)
FLOATING = (*HALF, torch.float32, torch.float64)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.1, torch.float16: 0.05}
ERRORS = RuntimeError, TypeError, ValueError, IndexError


class NotRefused(AssertionError):
    """A call was taken that should have been refused."""


# Tensors.


def make(rng, shape, dtype=torch.float32, positive=False):
    t = torch.randn(shape, dtype=torch.float64)
    return (t.abs() + 0.5 if positive else t).to(dtype)


def reshaped(rng, t):
    shape = list(t.shape)
    kind = rng.randrange(4)
    if kind == 0 and shape:
        del shape[rng.randrange(len(shape))]
    elif kind == 1 or not shape:
        shape.insert(rng.randrange(len(shape) + 1), rng.choice([1, 2, 3]))
    else:
        at = rng.randrange(len(shape))
        shape[at] = 0 if kind == 2 else rng.choice([1, shape[at] + 1, 2 * shape[at], 40])
    return torch.randn(shape, dtype=torch.float64).to(t.dtype)


def restrided(rng, t):
    kind = rng.randrange(6)
    if kind == 0 and t.dim() > 1:
        return t.transpose(*rng.sample(range(t.dim()), 2))
    if kind == 1 and t.dim():
        return torch.cat([t, t], -1)[..., ::2]
    if kind == 2 and t.dim():
        return t[:1].expand(t.shape) if t.shape[0] else t
    if kind == 3 and t.dim() in LAST:
        return t.contiguous(memory_format=LAST[t.dim()])
    if kind == 4 and t.numel():
        return t.reshape(-1)[:1].expand(t.shape) if t.numel() else t
    return torch.as_strided(t, t.shape, [1] * t.dim()) if t.dim() else t


def without_memory(rng, t):
    t = t.clone()
    t.untyped_storage().resize_(0)
    return t


TWISTS = {
    'shape': reshaped,
    'strides': restrided,
    'dtype': lambda rng, t: t.to(rng.choice([*FLOATING, torch.int64, torch.int8, torch.bool, torch.complex64])),
    'meta': lambda rng, t: t.to('meta'),
    'negative': lambda rng, t: torch._neg_view(t),
    'conjugate': lambda rng, t: torch.complex(t.float(), t.float()).conj(),
    'imaginary': lambda rng, t: torch.complex(t.float(), t.float()).conj().imag,
    'sparse': lambda rng, t: t.to_sparse(),
    'mkldnn': lambda rng, t: t.float().to_mkldnn(),
    'quantized': lambda rng, t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8),
    'nested': lambda rng, t: torch.nested.nested_tensor(list(t.unbind()) or [t]),
    'zeros': lambda rng, t: torch._efficientzerotensor(tuple(t.shape), dtype=t.dtype),
    'none': lambda rng, t: None,
    'number': lambda rng, t: 1.5,
    'list': lambda rng, t: t.tolist(),
    'huge': lambda rng, t: torch.zeros(1, dtype=t.dtype).expand(
        [2**31, 2**31][: max(t.dim(), 1)] + [1] * (t.dim() - 2)
    ),
    'leaf': lambda rng, t: t.clone().requires_grad_(t.is_floating_point()),
    'freed': without_memory,
}


def twist(rng, arguments, without=()):
    """Change one of the tensors in ``arguments``, in place; the kind of change, or None if it can't be made."""
    places = [i for i, t in enumerate(arguments) if isinstance(t, torch.Tensor)]
    kind, at = rng.choice([kind for kind in TWISTS if kind not in without]), rng.choice(places)
    try:
        arguments[at] = TWISTS[kind](rng, arguments[at])
    except ERRORS:
        return None
    return kind


# What is valid. True: it must give the reference's result. False: it must be refused. None: either.


def is_dense(t, neg=False):
    return (
        isinstance(t, torch.Tensor)
        and t.layout == torch.strided
        and not t.is_nested
        and t.device.type == 'cpu'
        and (neg or not t.is_neg())
        and not t._is_zerotensor()
        and (t.numel() == 0 or t.untyped_storage().nbytes() > 0)
    )


def is_laid_out(x):
    return x.is_contiguous() or is_last(x)


def is_last(x):
    return x.dim() in LAST and x.is_contiguous(memory_format=LAST[x.dim()])


def is_input(x, dtypes, neg=False):
    return is_dense(x, neg) and x.dtype in dtypes and x.dim() >= 2 and x.numel() > 0 and is_laid_out(x)


def is_gradient(dy, x, neg=False):
    same = is_dense(dy, neg) and dy.dtype == x.dtype and dy.shape == x.shape
    return same and (dy.is_contiguous() if x.is_contiguous() else is_last(dy))


def is_numbers(t, shape, dtypes, contiguous=True, neg=False):
    right = is_dense(t, neg) and t.shape == torch.Size(shape) and t.dtype in dtypes
    return right and (t.is_contiguous() or not contiguous)


def near(actual, expected, dtype, what):
    assert actual.shape == expected.shape, f'{what}: shape {actual.shape}, not {expected.shape}'
    # Roots of negative numbers are NaN in both.
    actual, expected = actual.double(), expected.detach()
    assert torch.equal(actual.isnan(), expected.isnan()), f'{what}: NaN elsewhere'
    actual, expected = actual.nan_to_num(), expected.nan_to_num()
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    difference = (actual - expected).abs().max().item() if expected.numel() else 0.0
    assert difference <= TOLERANCE[dtype] * scale, f'{what}: off by {difference:.2e} at scale {scale:.2e}'


# The passes.


def shape_of_input(rng):
    shape = [rng.choice([1, 2, 3]), rng.choice([1, 2, 3, 17, 40])]
    return shape + rng.choice([[], [5], [1, 1], [3, 3], [4, 7], [2, 3, 4], [33, 5]])


HAVE_TWO = ('affine_add', 'plane_sums', 'input_gradient')
# The affine form's numbers are for the activation, which there is none of.
REFERENCES = {
    'moments': reference.moments,
    'affine': reference.affine,
    'affine_add': lambda x, mean, scale, shift, other: reference.affine(x, mean, scale, shift) + other,
    'plane_sums': lambda dy, x, mean, scale, shift: reference.plane_sums(dy, x, mean),
    'input_gradient': lambda dy, x, mean, scale, shift, *rest: reference.input_gradient(dy, x, mean, scale, *rest),
}


def passes(rng):
    """One of them, without an activation."""
    shape, dtype = shape_of_input(rng), rng.choice(native.DTYPES)
    x = make(rng, shape, dtype)
    if len(shape) in LAST and rng.random() < 0.4:
        x = x.contiguous(memory_format=LAST[len(shape)])
    dy, mean = torch.randn_like(x), make(rng, shape[:2], torch.float64)
    others = [make(rng, shape[:2], rng.choice(FLOATING)) for _ in range(3)]
    name = rng.choice(['moments', 'affine', 'affine_add', 'plane_sums', 'input_gradient'])
    arguments = {
        'moments': [x],
        'affine': [x, mean, *others[:2]],
        'plane_sums': [dy, x, mean, *others[:2]],
        'input_gradient': [dy, x, mean, *others[:2], *others[1:]],
        'affine_add': [x, mean, *others[:2], dy],
    }[name]
    kind = twist(rng, arguments) if rng.random() < 0.75 else None
    if rng.random() < 0.03 and kind != 'freed':
        # (pybind11 prints what does not fit a signature, and PyTorch can't print what has no memory.)
        arguments, kind = (arguments[:-1] if rng.random() < 0.5 else [*arguments, x]), 'count'
    valid = kind != 'count' and passes_are_valid(name, arguments)
    return name, kind, valid, lambda: check_pass(name, arguments, valid)


def passes_are_valid(name, arguments):
    if name == 'affine_add':
        arguments = [arguments[-1], *arguments[:-1]]
    dy, x, *planes = arguments if name in HAVE_TWO else (None, *arguments)
    if not is_input(x, native.DTYPES) or (dy is not None and not is_gradient(dy, x)):
        return False
    if name in HAVE_TWO and dy is None:
        return False
    mean, others = planes[:1], planes[1:]
    right = all(is_numbers(t, x.shape[:2], (torch.float64,)) for t in mean)
    return right and all(is_numbers(t, x.shape[:2], FLOATING, contiguous=False, neg=True) for t in others)


def check_pass(name, arguments, valid):
    slope = {'moments': [], 'affine_add': [1, True], 'input_gradient': [1, 1, 1]}.get(name, [1])
    outputs = getattr(_C, name)(*arguments, *slope)
    if not valid:
        raise NotRefused
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    tensors = [t.detach().resolve_neg() for t in arguments]
    if name == 'affine_add':
        # Without an activation nothing is to be kept.
        outputs = outputs[:1]
    x = tensors[1] if name in ('plane_sums', 'input_gradient') else tensors[0]
    expected = REFERENCES[name](*(t.double() for t in tensors))
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    length = max(1, math.prod(x.shape[2:])) if name == 'plane_sums' else 1
    memory = {t.untyped_storage().data_ptr() for t in arguments}
    for i, (actual, exact) in enumerate(zip(outputs, expected)):
        near(actual.detach() / length, exact / length, x.dtype, f'{name}[{i}]')
        assert actual.untyped_storage().data_ptr() not in memory, f'{name}[{i}] lies in the memory of an argument'
    if name in ('affine', 'affine_add', 'input_gradient'):
        assert outputs[0].dtype == x.dtype
        assert outputs[0].is_contiguous() == x.is_contiguous()


# The steps of the coefficients.


def step_mixes(name):
    return name in ('mix_statistics', 'mix_outputs')


class Step:
    """A call of a step: its tensors, what their shapes and types must be, and its options. Valid at first."""

    def __init__(self, rng):
        n, c = rng.choice([1, 2, 3]), rng.choice([1, 2, 4, 12, 20])
        dtype = rng.choice([torch.float32, torch.float64])
        self.groups = rng.choice([g for g in (1, 2, 4) if c % g == 0])
        self.eps, self.stats, self.names = 1e-5, None, ['IN']
        self.name = rng.choice(['pool', 'group_moments', 'mix_statistics', 'mix_outputs', 'correlate', 'rescale'])
        moments, any_type = (torch.float32, torch.float64), FLOATING
        if self.name in ('pool', 'group_moments'):
            tensors = [((n, c), torch.float64, any_type), ((n, c), dtype, moments)]
            if self.name == 'pool':
                self.names = rng.sample(['IN', 'LN', 'GN', 'BN'], rng.randint(1, 4))
                given = 'BN' in self.names and rng.random() < 0.5
                tensors += [((c,), dtype, any_type) if given else None] * 2
                if 'BN' in self.names and not given and rng.random() < 0.6:
                    buffer = rng.choice([torch.float32, torch.float64, torch.float16])
                    self.stats = [make(rng, [c], buffer), make(rng, [c], buffer, positive=True), torch.tensor(3)]
                self.momentum, self.positions = rng.choice([0.1, None, 1.0]), rng.choice([1, 12])
        else:
            k = 1 if self.name == 'rescale' else rng.randint(1, 4)
            tensors = [((k, n, c), dtype, moments), ((k, n, c), rng.choice([dtype, torch.float32]), any_type)]
            parameter, affine = rng.choice([torch.float32, torch.float64, torch.bfloat16]), rng.random() < 0.8
            if self.name == 'mix_statistics':
                tensors += [((2, k), parameter, any_type)] + [((c,), parameter, any_type) if affine else None] * 2
            elif self.name == 'mix_outputs':
                rows = (k, c) if rng.random() < 0.5 else (c,)
                tensors += [((n, k), parameter, any_type)] + [(rows, parameter, any_type) if affine else None] * 2
            elif self.name == 'correlate':
                r = rng.choice([r for r in (1, 2, 4) if c % r == 0])
                tensors += [((c // r, r), parameter, any_type) if rng.random() < 0.6 else None]
            else:
                tensors += [((n, self.groups), parameter, any_type)] * 2
                tensors += [((c,), parameter, any_type) if affine else None] * 2
        self.expected = tensors
        # Variances and ratios are positive.
        self.tensors = [
            None if t is None else make(rng, t[0], t[1], positive=i in (1, 2 if step_mixes(self.name) else 3))
            for i, t in enumerate(tensors)
        ]

    def tensors_are_valid(self):
        """None: it depends."""
        for i, (t, expected) in enumerate(zip(self.tensors, self.expected)):
            if t is None and expected is not None:
                # Left out, gamma and beta are 1 and 0; of others it depends.
                return None
            if t is not None and not is_numbers(t, expected[0], expected[2], contiguous=False, neg=True):
                # Rows of gamma and beta may be one, and groups others.
                return None if i >= 2 and is_dense(t, neg=True) and t.dtype in FLOATING else False
        return True

    def spoil(self, rng):
        """Change something that is no tensor; whether it must be refused."""
        kind = rng.choice(['names', 'groups', 'stats', 'eps', 'momentum', 'positions', 'twice', 'nothing'])
        channels = self.expected[0][0][-1]
        if kind == 'names' and self.name == 'pool':
            self.names[rng.randrange(len(self.names))] = rng.choice(['XN', '', 'in', 'Running'])
        elif kind == 'nothing' and self.name == 'pool':
            self.names = []
        elif kind == 'twice' and 'BN' in self.names:
            self.names = [*self.names, 'BN']
        elif kind == 'groups' and (self.name == 'group_moments' or 'GN' in self.names):
            self.groups = rng.choice([0, -1, -(2**62), 2**62, channels + 1, 2**63])
        elif kind == 'eps' and self.name not in ('pool', 'group_moments'):
            self.eps = rng.choice([0.0, -1.0, math.nan])
        elif kind == 'momentum' and self.stats:
            self.momentum = rng.choice([-0.1, 1.5, math.nan])
        elif kind == 'positions' and self.stats:
            self.positions = rng.choice([0, -1, -(2**63), 2**63])
        elif kind == 'stats' and self.stats:
            mean, var, batches = self.stats
            other = torch.float64 if mean.dtype != torch.float64 else torch.float32
            self.stats = rng.choice(
                [
                    [mean, mean, batches],
                    [mean, var.to(other), batches],
                    [mean[:0], var[:0], batches],
                    [mean, var, torch.zeros(0, dtype=torch.long)],
                    [mean, var, torch.tensor(1.0)],
                    [make(rng, [channels + 1], mean.dtype), make(rng, [channels + 1], mean.dtype), batches],
                    [mean.to('meta'), var, batches],
                    [mean, None, batches],
                    [mean, var, None],
                ]
            )
        else:
            return None
        return True

    def options(self):
        if self.name == 'pool':
            stats = (*self.stats, self.momentum, self.positions) if self.stats else (None, None, None, None, 0)
            return (self.names, self.groups, *stats)
        return (self.groups,) if self.name == 'group_moments' else (self.eps,)

    def plain(self, *tensors):
        if self.name == 'pool':
            return ops.pool(*tensors, normalizers=self.names, num_groups=self.groups)
        options = dict(groups=self.groups) if self.name == 'group_moments' else dict(eps=self.eps)
        return getattr(ops, self.name)(*tensors, **options)


def no_replay(*arguments):
    raise KeyError('again')


def steps(rng):
    """One of the steps, forward and backward."""
    step = Step(rng)
    what, valid, again = (
        rng.choice(['', 'tensors', 'tensors', 'tensors', 'spoil', 'count', 'hooks', 'again']),
        True,
        no_replay,
    )
    kind = what
    if what == 'tensors':
        kind = twist(rng, step.tensors)
        valid = step.tensors_are_valid()
    elif what == 'spoil':
        valid = {True: False, None: True}[step.spoil(rng)]
    elif what == 'count':
        step.tensors, valid = (step.tensors[:-1] if rng.random() < 0.5 else [*step.tensors, step.tensors[0]]), False
    elif what == 'again' and rng.random() < 0.3:
        valid, again = False, rng.choice([None, 1])

    def call():
        if what in ('hooks', 'again') and valid:
            return abuse(rng, what, step)
        check_step(step, again, valid)

    return step.name, kind or None, None if what in ('hooks', 'again') else valid, call


def as_list(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def gradients(outputs, inputs, dys):
    """Outputs that depend on nothing, as the deviations of IN, have none to send back."""
    pairs = [(y, dy.to(y.dtype)) for y, dy in zip(outputs, dys) if y.requires_grad]
    ys, dys = zip(*pairs)
    return torch.autograd.grad(ys, inputs, dys, allow_unused=True)


def check_step(step, again, valid):
    tensors = step.tensors
    if valid is True:
        tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
        before = [t.double().clone() for t in step.stats] if step.stats else None
    outputs = as_list(getattr(_C, step.name)(*tensors, *step.options(), again))
    if valid is False:
        raise NotRefused
    if valid is None:
        return
    exact = [None if t is None else t.detach().resolve_neg().double().requires_grad_() for t in tensors]
    previous = ops.set_backend('reference')
    try:
        expected = as_list(step.plain(*exact))
    finally:
        ops.set_backend(previous)
    types = {t.dtype for t in tensors if t is not None}
    coarse = next(t for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64) if t in types)
    for i, (actual, twin) in enumerate(zip(outputs, expected)):
        near(actual.detach(), twin.detach(), coarse, f'{step.name}[{i}]')
    dys = [torch.randn(y.shape, dtype=torch.float64) for y in outputs]
    wanted = [i for i, t in enumerate(tensors) if t is not None]
    ours = gradients(outputs, [tensors[i] for i in wanted], dys)
    theirs = gradients(expected, [exact[i] for i in wanted], dys)
    largest = max([1.0] + [g.abs().max().item() for g in theirs if g is not None])
    for i, actual, twin in zip(wanted, ours, theirs):
        if twin is None:
            assert actual is None or not actual.any(), f'{step.name}: a gradient of tensor {i}'
        else:
            near(actual / largest, twin / largest, coarse, f'{step.name}: gradient of tensor {i}')
    if before:
        check_tracked(step, before, *exact[:2])


def check_tracked(step, before, mean, var):
    count = mean.shape[0] * step.positions
    pooled = mean.mean(0)
    unbiased = (var + (mean - pooled).square()).mean(0) * (count / max(count - 1, 1))
    factor = step.momentum if step.momentum is not None else 1 / 4
    for actual, old, new in zip(step.stats[:2], before[:2], (pooled, unbiased)):
        dtype = torch.float16 if actual.dtype == torch.float16 else torch.float32
        near(actual, (old + factor * (new - old)).detach(), dtype, 'tracked')
    assert step.stats[2] == 4


def abuse(rng, what, step):
    """Backward over what the forward has not saved, or with gradients of gradients that are anything."""
    tensors = [None if t is None else t.detach().requires_grad_() for t in step.tensors]
    results = [None, [], [None] * 20, 'text', [1], [torch.zeros(1)] * len(tensors), [None] * len(tensors)]

    def again(*arguments):
        if rng.random() < 0.3:
            raise KeyError('again')
        return rng.choice(results)

    def unpack(t):
        changed = [t]
        return t if rng.random() < 0.8 or twist(rng, changed) is None else changed[0]

    run = getattr(_C, step.name)
    try:
        if what == 'hooks':
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                outputs = as_list(run(*tensors, *step.options(), again))
            sum(y.sum() for y in outputs).backward()
        else:
            outputs = as_list(run(*tensors, *step.options(), again))
            wanted = [t for t in tensors if t is not None]
            torch.autograd.grad(sum(y.sum() for y in outputs), wanted, create_graph=True, allow_unused=True)
    except KeyError:
        pass


def nodes(rng):
    """The nodes of the passes, over what was not saved."""
    shape = shape_of_input(rng)
    x = make(rng, shape, rng.choice(native.DTYPES)).requires_grad_()

    def unpack(t):
        changed = [t]
        return t if rng.random() < 0.7 or twist(rng, changed) is None else changed[0]

    def call():
        results = [None, [None] * 4, [torch.zeros(1)] * 4, 'text']
        again = rng.choice([no_replay, lambda *arguments: rng.choice(results)])
        try:
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
                mean, var, *stand_ins = _C.moments_node(x, again)
                y = _C.affine_node(x, mean, var, var, *stand_ins, again)
            torch.autograd.grad(y.sum(), x, create_graph=rng.random() < 0.3)
        except KeyError:
            pass

    return 'nodes', 'hooks', None, call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--calls', type=int, default=10000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--start', type=int, default=0, help='number of the first call, to repeat one')
    parser.add_argument('--verbose', action='store_true', help='name each call before it is made')
    options = parser.parse_args()
    warnings.simplefilter('ignore')
    counts, failures = Counter(), []
    for i in range(options.start, options.start + options.calls):
        rng = random.Random(f'{options.seed}-{i}')
        torch.manual_seed(i)
        name, kind, valid, call = rng.choice([passes, passes, steps, steps, steps, nodes])(rng)
        if options.verbose:
            print(i, name, kind, valid, flush=True)
        try:
            call()
            counts['right' if valid else 'taken'] += 1
        except NotRefused:
            failures.append(f'call {i}: {name} took what it should have refused ({kind})')
        except AssertionError as error:
            failures.append(f'call {i}: {name} ({kind}): {error}')
        except ERRORS as error:
            counts['refused'] += 1
            if valid is True:
                failures.append(f'call {i}: {name} refused what is valid ({kind}): {type(error).__name__}: {error}')
        except Exception as error:
            failures.append(f'call {i}: {name} ({kind}) raised {type(error).__name__}: {error}')
    print(dict(counts))
    for failure in failures[:20]:
        print(failure[:500])
    if failures:
        raise SystemExit(f'{len(failures)} of {options.calls} calls went wrong')


if __name__ == '__main__':
    main()
