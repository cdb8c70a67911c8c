"""Counts the nodes of ResNet-50's ONNX graph with BN, GN, SN, EN and ILM, and times onnxruntime on it (CPU, eval)."""

from __future__ import annotations

import argparse
import io
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import arguments
import onnx
import onnxruntime
import torch
from environment import describe, environment, load
from networks import NORM_CFGS, build_torchvision_resnet50
from report import Table, duration, number, save

from mmnorm.timing import interleave

NORMS = ('BN', 'GN', 'SN', 'EN', 'ILM')
CPU = torch.device('cpu')


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = arguments.Parser(description=__doc__)
    parser.add_argument('--batch', type=arguments.positive, default=1, metavar='N', help='images (%(default)s)')
    parser.add_argument('--size', type=arguments.positive, default=224, metavar='PIXELS', help='(%(default)s)')
    parser.add_argument('--repeats', type=arguments.positive, default=10, metavar='N', help='samples (%(default)s)')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder of exported.* (%(default)s)'
    )
    return parser.parse_args(words)


def export(name: str, size: int) -> bytes:
    """ResNet-50 of torchvision with a norm, in eval mode, for any number of images."""
    torch.manual_seed(0)
    network = build_torchvision_resnet50(NORM_CFGS[name], size, 1, CPU)[0].network.eval()
    buffer = io.BytesIO()
    example = (torch.randn(2, 3, size, size),)
    shapes = ({0: torch.export.Dim('batch')},)
    torch.onnx.export(network, example, dynamo=True, dynamic_shapes=shapes, verbose=False).save(buffer)
    return buffer.getvalue()


def main(words: Sequence[str] | None = None) -> int:
    options = parse_arguments(words)
    facts = environment(CPU) | {'onnxruntime': onnxruntime.__version__}
    print(describe(facts), flush=True)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    images = torch.randn(options.batch, 3, options.size, options.size).numpy()
    nodes, calls = {}, {}
    for name in NORMS:
        print(f'{name}: export ...', file=sys.stderr, flush=True)
        graph = export(name, options.size)
        nodes[name] = sum(node.op_type != 'Constant' for node in onnx.load_from_string(graph).graph.node)
        session = onnxruntime.InferenceSession(graph, session_options, providers=['CPUExecutionProvider'])
        feed = {session.get_inputs()[0].name: images}
        calls[name] = lambda session=session, feed=feed: session.run(None, feed)
    print('times ...', file=sys.stderr, flush=True)
    samples = interleave(calls, options.repeats, CPU)
    facts['load at the end'] = load()

    seconds = {name: statistics.median(taken) for name, taken in samples.items()}
    results = [
        {'norm': name, 'nodes': nodes[name], 'seconds': time, 'seconds / BN': time / seconds['BN']}
        for name, time in seconds.items()
    ]
    rows = [[r['norm'], str(r['nodes']), duration(r['seconds']), number(r['seconds / BN'])] for r in results]
    title = f'ResNet-50, {"x".join(map(str, images.shape))}, onnxruntime'
    made = Table(title, ['norm', 'nodes', 'time', '/ BN'], [('', rows)])
    made.print()
    save(options.out, 'exported', {'environment': facts, 'results': results, 'samples': samples}, results, [made])
    print(f'saved {options.out}/exported.json, .csv and .md; load at the end {facts["load at the end"]}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
