"""The job ``doctor`` of ``mmnorm analyze``: its options, and what it does."""

import argparse
import sys
import tempfile

from ..analysis.doctor.diagnose import BATCHES
from ..analysis.doctor.patient import Patient, examine, open_patient, run_config
from ..analysis.doctor.report import as_text, write_diagnosis
from ..analysis.doctor.statistics import check_cost
from ..analysis.html_page import check_page_name
from ..cli import launch
from ..cli.defaults import add_default_arguments
from ..errors import UsageError
from ..experiments.statistics import compare_statistics
from ..files import add_trust_argument


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SOURCE', help=f'{launch.CONFIG_HELP}; or a checkpoint of a run')
    parser.add_argument('checkpoint', nargs='?', metavar='CHECKPOINT', help='weights, where SOURCE is a config')
    parser.add_argument('--config', help='of the checkpoint, where that does not say it or is not trusted to')
    parser.add_argument('--out', metavar='FILE', help='write a page too; .html')
    parser.add_argument('--strict', action='store_true', help='exit status 1 if there are findings (else 0)')
    parser.add_argument(
        '--gpus', type=int, default=1, metavar='N', help='what training runs on; nothing is started (default: 1)'
    )
    parser.add_argument(
        '--batches', type=int, default=BATCHES, metavar='N', help='training batches to run (default: %(default)s)'
    )
    parser.add_argument('--batch', type=int, metavar='N', help="images of a batch (default: the config's)")
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        metavar='PIXELS',
        help='run random images of this side, or height and width, instead of the data (default without data: the '
        "size of the config's crop)",
    )
    parser.add_argument(
        '--evaluate',
        type=int,
        metavar='N',
        help='test the checkpoint twice, with its running statistics and with those of N training batches',
    )
    text = 'as in mmnorm train'
    parser.add_argument('--cfg-options', nargs='+', action=launch.DictAction, metavar='KEY=VALUE', help=text)
    parser.add_argument('--norm', help=text)
    parser.add_argument('--norm-scope', metavar='NAMES', help=text)
    add_default_arguments(parser)
    add_trust_argument(parser)
    # What load_config needs besides.
    parser.set_defaults(launcher='none', local_rank=0)


def doctor(args: argparse.Namespace) -> None:
    """Print what is wrong with the norms of a network, and write it to a page."""
    _check_arguments(args)
    patient = open_patient(args)
    if args.evaluate is not None and patient.checkpoint is None:
        raise UsageError('--evaluate: expected a checkpoint to test')
    diagnosis = examine(patient, args)
    if args.evaluate is not None:
        own, anew = _evaluate(patient, args.evaluate)
        diagnosis.findings += check_cost(own, anew, args.evaluate, diagnosis.case.remedies)
        measured = ', '.join(f'{name} {own[name]:.4g} and {anew[name]:.4g}' for name in own if name[-4:] != 'time')
        diagnosis.notes.append(f'tested with its statistics, and with those of {args.evaluate} batches: {measured}')
    print(as_text(diagnosis))
    if args.out:
        write_diagnosis(diagnosis, args.out)
        print(f'wrote {args.out}')
    if args.strict and diagnosis.findings:
        sys.exit(1)


def _check_arguments(args: argparse.Namespace) -> None:
    if args.out:
        check_page_name(args.out)
    if args.shape is not None and (len(args.shape) > 2 or min(args.shape) < 1):
        raise UsageError(f'--shape: expected a side, or height and width, in pixels, got {args.shape}')
    for name in ('gpus', 'batches', 'batch', 'evaluate'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f'--{name}: expected at least 1, got {value}')


def _evaluate(patient: Patient, batches: int) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        cfg = run_config(patient, folder)
        runner = launch.build_runner(cfg)
        loader = runner.train_dataloader
        images = batches * (loader.batch_size or loader.batch_sampler.batch_size)
        tests = compare_statistics(runner, [str(patient.checkpoint)], [images], ('total',))
    return [test.metrics for test in tests]
