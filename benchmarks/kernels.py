"""Registers, spills, shared memory and occupancy of the Triton kernels, from the compiler alone: no GPU is needed."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import arguments
import torch
from report import Table, save

import mmnorm

LAYERS = {'SN': mmnorm.SwitchableNorm2d, 'EN': mmnorm.ExemplarNorm2d, 'ILM': mmnorm.InstanceMetaNorm2d}
# What goes into the passes: an activation, and whether there is a residual. leaky_relu takes what relu takes.
VARIANTS = {
    '': (None, False),
    'relu': ('relu', False),
    'silu': ('silu', False),
    'gelu': ('gelu', False),
    'sum': (None, True),
    'sum, relu': ('relu', True),
    'sum, silu': ('silu', True),
    'sum, gelu': ('gelu', True),
}
SHAPE = (2, 64, 128, 128)


class Multiprocessor(NamedTuple):
    """What one has for all its programs (CUDA C++ Programming Guide, compute capabilities).

    Attributes:
        shared: Bytes of shared memory, 1 KiB of which the system takes for each program.
        registers: Of 32 bits; a warp is given them 256 at a time.
        warps: Most at a time; they are given 4 at a time.
        programs: Most at a time.
    """

    shared: int
    registers: int = 65536
    warps: int = 64
    programs: int = 32


MULTIPROCESSORS = {80: Multiprocessor(164 << 10), 90: Multiprocessor(228 << 10)}


class Resources(NamedTuple):
    """What a program takes.

    Attributes:
        registers: Of a thread.
        spilled: Bytes of a thread in memory, for lack of registers.
        shared: Bytes of shared memory.
        warps: Warps.
    """

    registers: int
    spilled: int
    shared: int
    warps: int

    def occupancy(self, capability: int) -> float:
        """Share of a multiprocessor's warps that can be there at a time."""
        limits = MULTIPROCESSORS[capability]
        by_registers = limits.registers // _multiple(self.registers * 32, 256) // 4 * 4 // self.warps
        by_shared = limits.shared // _multiple(self.shared + 1024, 128)
        programs = min(by_registers, by_shared, limits.warps // self.warps, limits.programs)
        return programs * self.warps / limits.warps


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of


class GPU:
    """A driver of a GPU that is not there, enough to compile for it."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget('cuda', self.capability, 32)


@contextmanager
def compiled(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Kernels are compiled for an NVIDIA GPU instead of launched; what they would write stays uninitialized.

    Yields:
        Name and compiled kernel of each launch, as they come.
    """
    import triton

    names = ('passes.triton', 'coefficients.triton.pools', 'coefficients.triton.mixing')
    modules = [import_module(f'mmnorm.ops.{name}') for name in names]
    warps = modules[0].NUM_WARPS
    launches: list[tuple[str, Any]] = []

    def launch(kernel, programs, *args, **constants):
        found = kernel.run(*args, grid=(programs,), warmup=True, num_warps=warps, **constants)
        launches.append((kernel.__name__, found))

    driver = triton.runtime.driver
    before, before_launch = vars(driver).copy(), modules[0].launch
    for module in modules:
        module.launch = launch
    driver.set_active(GPU(capability))
    try:
        with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
            triton.knobs.cache.dir = folder
            yield launches
    finally:
        vars(driver).update(before)
        for module in modules:
            module.launch = before_launch


def resources(kernel: Any) -> Resources:
    """What the code of a compiled kernel says that it takes."""
    import triton

    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(kernel.asm['cubin'])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, '--dump-resource-usage', file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r'\b(REG|STACK|LOCAL):(\d+)', text)}
    # No kernel has variables of its own in local memory: what lies on the stack are registers.
    spilled = found['STACK'] + found['LOCAL']
    return Resources(found['REG'], spilled, kernel.metadata.shared, kernel.metadata.num_warps)


def train(name: str, variant: str, dtype: torch.dtype, memory_format: torch.memory_format) -> Callable[[], None]:
    """A step, forward and backward, of a layer of LAYERS with a variant of VARIANTS."""
    activation, with_residual = VARIANTS[variant]
    layer = LAYERS[name](SHAPE[1], activation=activation)
    x, z = (torch.empty(SHAPE, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_() for _ in range(2))

    def step():
        y = layer(x, z) if with_residual else layer(x)
        y.backward(torch.empty_like(y))

    return step


def measure(capability: int, dtype: str, memory_format: str) -> list[dict]:
    """A row for each kernel that layers launch, and each variant of those that differ by it."""
    rows: dict[str, dict] = {}
    # The passes are the same in all layers.
    steps = [(name, '') for name in LAYERS] + [('SN', variant) for variant in VARIANTS if variant]
    before = mmnorm.set_backend('triton')
    try:
        with compiled(capability) as launches:
            for name, variant in steps:
                launches.clear()
                train(name, variant, arguments.DTYPES[dtype], arguments.MEMORY_FORMATS[memory_format])()
                for kernel_name, kernel in launches:
                    if kernel.hash not in rows:
                        found = resources(kernel)
                        rows[kernel.hash] = {
                            'capability': capability, 'dtype': dtype, 'memory_format': memory_format,
                            'kernel': kernel_name.strip('_').removesuffix('_kernel'),
                            'in': f'{name} with {variant}' if variant else name,
                            **found._asdict(), 'occupancy': found.occupancy(capability),
                        }  # fmt: skip
    finally:
        mmnorm.set_backend(before)
    return list(rows.values())


def tables(rows: list[dict]) -> list[Table]:
    """One table a capability: a section a type and memory format, a row a kernel."""
    made: dict[int, Table] = {}
    for row in rows:
        table = made.setdefault(
            row['capability'],
            Table(f'sm_{row["capability"]}', ['', 'in', 'registers', 'spilled', 'shared', 'occupancy']),
        )
        heading = f'{row["memory_format"]}, {row["dtype"]}'
        if not table.sections or table.sections[-1][0] != heading:
            table.sections.append((heading, []))
        numbers = [str(row[key]) for key in ('registers', 'spilled', 'shared')]
        table.sections[-1][1].append([row['kernel'], row['in'], *numbers, f'{row["occupancy"]:.0%}'])
    return list(made.values())


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.Parser(description=__doc__)
    capabilities, formats, dtypes = list(MULTIPROCESSORS), list(arguments.MEMORY_FORMATS), list(arguments.DTYPES)
    parser.add_argument(
        '--capability', nargs='+', type=int, choices=capabilities, default=capabilities,
        help='80 is an A100, 90 an H100 (default: both)',
    )  # fmt: skip
    parser.add_argument('--memory-format', nargs='+', choices=formats, default=formats, help='one or both (default)')
    parser.add_argument('--dtype', nargs='+', choices=dtypes, default=dtypes, help='default: all')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder of kernels.* (%(default)s)'
    )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = parse_arguments(words)
    try:
        import triton
    except ImportError:
        print('kernels.py: needs the package triton, which is not installed', file=sys.stderr)
        return 2
    rows = []
    for each in product(options.capability, options.dtype, options.memory_format):
        print(f'sm_{each[0]}, {", ".join(each[1:])} ...', file=sys.stderr, flush=True)
        rows += measure(*each)
    made = tables(rows)
    for table in made:
        table.print()
    save(options.out, 'kernels', {'triton': triton.__version__, 'shape': SHAPE, 'results': rows}, rows, made)
    print(f'saved {options.out}/kernels.json, .csv and .md')
    return 0


if __name__ == '__main__':
    sys.exit(main())
