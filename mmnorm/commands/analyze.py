"""See what SN, EN and ILM have learned: record a checkpoint over its data, and draw the papers' figures.

A SOURCE is a checkpoint (run over the data of its config) or a file that `record` has written. `doctor` looks for what
is wrong with the norms of a network in training, of any kind.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis import save_record
from ..analysis.doctor.arguments import add_arguments as add_doctor_arguments
from ..analysis.doctor.arguments import check_arguments
from ..analysis.html_page import check_page_name
from ..analysis.inputs import Sources, add_arguments
from ..analysis.record_file import Record, check_record_name
from ..cli import launch
from ..cli.jobs import job_adder
from ..cli.processes import add_gpus_argument, run_on_gpus
from ..errors import UsageError
from ..files import read_weights

if TYPE_CHECKING:
    from ..analysis.doctor.patient import Patient

# For a figure, that many samples do.
FEW = 1000
MANY = 50_000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job = job_adder(parser)

    def add(name: str, job, text: str, many: bool = False, max_samples: int = FEW, layers: bool = False):
        command = add_job(name, job, text)
        if many:
            text = 'checkpoints, recorded files, or folders of checkpoints'
            command.add_argument('sources', metavar='SOURCE', nargs='+', help=text)
        else:
            command.add_argument('sources', metavar='SOURCE', help='checkpoint or record')
        command.add_argument('--out', required=True, metavar='FILE', help='where it goes; .pdf, .svg or .png')
        if layers:
            command.add_argument('--layers', nargs='+', metavar='NAME', help='names of layers')
        add_arguments(command, max_samples)
        return command

    command = add('record', record, 'run a checkpoint over its data and write what its norms did', max_samples=MANY)
    command.add_argument('--force', action='store_true', help='overwrite FILE')
    add_gpus_argument(command)
    add('weights', weights, 'SN Fig. 3: weights of mean and variance along the layers (EN: average ratios)')
    text = 'SN Fig. 1c and 4: the same by network part, of one network or several, e.g. trained with different batches'
    named = [add('parts', parts, text, many=True)]
    text = 'EN Fig. 4: average ratios along the layers of one or several data sets'
    named.append(add('layers', layers, text, many=True))
    by_class = [add('classes', classes, 'ratios by class in chosen layers', layers=True)]
    command = add('images', images, 'EN Fig. 7: single images beside their ratios', layers=True)
    command.add_argument('--num', type=int, default=6, help='number of images')
    by_class.append(command)
    text = 'EN Fig. 8: t-SNE of the concatenated ratios over training'
    by_class.append(add('tsne', tsne, text, many=True, layers=True))
    text = (
        'EN Fig. 5: learning dynamics, from what NormRatioHook logged in a work dir, or from checkpoints; '
        'EN Fig. 1a and 6: those of classes, from checkpoints'
    )
    command = add('dynamics', dynamics, text, many=True, layers=True)
    command.add_argument('--from-checkpoints', action='store_true', help='of a work dir, take its checkpoints')
    command.add_argument('--num-layers', type=int, metavar='N', help='so many layers, evenly taken by depth')
    by_class.append(command)
    text = 'SN Fig. 6: losses over training of one or several runs, or rewards of a search, from what they logged'
    command = add_job('losses', losses, text)
    text = 'work dirs, or checkpoints in them'
    command.add_argument('sources', metavar='SOURCE', nargs='+', help=text)
    command.add_argument('--out', required=True, metavar='FILE', help='where it goes; .pdf, .svg or .png')
    command.add_argument(
        '--losses',
        nargs='+',
        metavar='NAME',
        help='names of losses, or of other things logged, e.g. reward (default: all losses)',
    )
    command.add_argument('--smooth', type=int, default=1, metavar='N', help='average over N points')
    command.set_defaults(launcher='none')
    named.append(command)
    for command in named:
        command.add_argument('--names', nargs='+', metavar='NAME', help='what the sources are called in the figure')
    for command in by_class:
        text = 'names or numbers of classes: only their samples are run'
        command.add_argument('--classes', nargs='+', metavar='NAME', help=text)
    command = add('affine', affine, "ILM: distribution of omega and beta along the layers, and against the base's")
    command.add_argument(
        '--base', metavar='CHECKPOINT', help='the same network with the base norm, for its gamma, beta'
    )
    text = 'all figures of a checkpoint on one HTML page; of several SOURCEs the last, the others for how it got there'
    command = add('report', report, text, many=True)
    command.add_argument(
        '--run', metavar='DIR', help='work dir with what NormRatioHook logged (default: beside SOURCE)'
    )
    text = 'what is wrong with the norms of a network in training, why, and what to write; a page with --out'
    add_doctor_arguments(add_job('doctor', doctor, text))
    return parser.parse_args()


def record(args: argparse.Namespace) -> None:
    check_record_name(args.out)
    if Path(args.out).exists() and not args.force:
        raise UsageError(f'{args.out} exists. Give --force to overwrite it, or another name.')
    run_on_gpus('analyze', args)
    recorded = Sources(args).open(args.sources)
    if recorded is not None:
        save_record(recorded, args.out)
        print(f'wrote {args.out}: {len(recorded.layers)} layers, {recorded.samples} samples')


def weights(args: argparse.Namespace):
    from ..analysis.figures.weights import weights_figure

    return weights_figure(open_one(args))


def parts(args: argparse.Namespace):
    from ..analysis.figures.weights import parts_figure

    return parts_figure(*open_named(args))


def layers(args: argparse.Namespace):
    from ..analysis.figures.ratios import layers_figure

    return layers_figure(open_named(args))


def losses(args: argparse.Namespace):
    from ..analysis.figures.losses import losses_figure
    from ..analysis.losses import read_losses

    check_names(args)
    runs = [read_losses(source, args.losses or ()) for source in args.sources]
    for run, name in zip(runs, args.names or (), strict=False):
        run.title = name
    return losses_figure(runs, args.losses, args.smooth)


def open_one(args: argparse.Namespace) -> Record:
    """The record of the one source, in the one process that draws."""
    opened = Sources(args).open(args.sources)
    assert opened is not None
    return opened


def open_named(args: argparse.Namespace) -> list:
    """The records of all sources, called as --names says."""
    check_names(args)
    records = Sources(args).open_all(args.sources)
    for opened, name in zip(records, args.names or (), strict=False):
        opened.title = name
    return records


def check_names(args: argparse.Namespace) -> None:
    """Refuse another number of --names than there are sources."""
    if args.names and len(args.names) != len(args.sources):
        raise UsageError(f'--names: expected one for each of {len(args.sources)} sources, got {len(args.names)}')


def classes(args: argparse.Namespace):
    from ..analysis.figures.ratios import classes_figure

    return classes_figure(open_one(args), args.layers, args.classes)


def images(args: argparse.Namespace):
    from ..analysis.figures.ratios import images_figure

    return images_figure(open_one(args), args.layers, args.num)


def tsne(args: argparse.Namespace):
    from ..analysis.figures.tsne import tsne_figure

    return tsne_figure(Sources(args).open_all(args.sources), args.layers)


def dynamics(args: argparse.Namespace):
    from ..analysis.figures.class_dynamics import class_dynamics_figure
    from ..analysis.figures.dynamics import dynamics_figure
    from ..analysis.history import history_of, read_history

    count = {} if args.num_layers is None else dict(count=args.num_layers)
    if args.num_layers is not None and args.num_layers < 1:
        raise UsageError(f'--num-layers: expected at least 1, got {args.num_layers}')
    if args.classes:
        return class_dynamics_figure(Sources(args).open_all(args.sources), args.layers, args.classes, **count)
    logged = len(args.sources) == 1 and Path(args.sources[0]).suffix not in ('.pth', '.npz')
    if logged and not args.from_checkpoints:
        history = read_history(args.sources[0])
    else:
        history = history_of(Sources(args).open_all(args.sources))
    return dynamics_figure(history, args.layers, **count)


def affine(args: argparse.Namespace):
    from ..analysis.figures.affine import affine_figure

    opened, base = open_one(args), None
    if args.base is not None:
        state_dict, _ = read_weights(args.base, args.trust_checkpoint)
        base = {name: value.float().numpy() for name, value in state_dict.items()}
    return affine_figure(opened, base)


def report(args: argparse.Namespace) -> None:
    from ..analysis.history import read_history, scalar_files
    from ..analysis.html_report import write_report

    check_page_name(args.out)
    run = args.run or args.sources[-1]
    folder = Path(run) if Path(run).is_dir() else Path(run).absolute().parent
    history = None
    if args.run or scalar_files(folder):
        try:
            history = read_history(folder)
        except UsageError:
            if args.run:
                raise
    for reason in write_report(Sources(args).open_all(args.sources), args.out, history):
        print(f'left out: {reason}')
    print(f'wrote {args.out}')


def doctor(args: argparse.Namespace) -> None:
    from ..analysis.doctor.patient import examine, open_patient
    from ..analysis.doctor.report import as_text, write_diagnosis
    from ..analysis.doctor.statistics import check_cost

    check_arguments(args)
    patient = open_patient(args)
    if args.evaluate is not None and patient.checkpoint is None:
        raise UsageError('--evaluate: expected a checkpoint to test')
    diagnosis = examine(patient, args)
    if args.evaluate is not None:
        own, anew = evaluate(patient, args.evaluate)
        diagnosis.findings += check_cost(own, anew, args.evaluate, diagnosis.case.remedies)
        measured = ', '.join(f'{name} {own[name]:.4g} and {anew[name]:.4g}' for name in own if name[-4:] != 'time')
        diagnosis.notes.append(f'tested with its statistics, and with those of {args.evaluate} batches: {measured}')
    print(as_text(diagnosis))
    if args.out:
        write_diagnosis(diagnosis, args.out)
        print(f'wrote {args.out}')
    if args.strict and diagnosis.findings:
        sys.exit(1)


def evaluate(patient: 'Patient', batches: int) -> list[dict[str, float]]:
    """The metrics of a checkpoint with its running statistics, and with those of training batches."""
    from ..analysis.doctor.patient import run_config
    from ..experiments.statistics import compare_statistics

    with tempfile.TemporaryDirectory() as folder:
        cfg = run_config(patient, folder)
        runner = launch.build_runner(cfg)
        loader = runner.train_dataloader
        images = batches * (loader.batch_size or loader.batch_sampler.batch_size)
        tests = compare_statistics(runner, [str(patient.checkpoint)], [images], ('total',))
    return [test.metrics for test in tests]


def main() -> None:
    args = parse_args()
    if args.job is doctor:
        args.job(args)
        return
    if args.launcher != 'none' and args.command != 'record':
        raise UsageError(f'--launcher is for the command record; then draw {args.command} from its file')
    if args.job in (record, report):
        args.job(args)
        return
    from ..analysis.figures.style import check_figure_name, save_figure

    check_figure_name(args.out)
    save_figure(args.job(args), args.out)
    print(f'wrote {args.out}')
