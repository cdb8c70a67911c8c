"""The papers' experiments: list them, show one, run it with the pretraining it needs, compare what came of it."""

import argparse
import signal
from pathlib import Path

from ..cli.jobs import job_adder
from ..errors import UsageError
from ..experiments.catalogue import STATES, Experiment, catalogue
from ..experiments.plan import Planner

ROOT = Path('work_dirs/experiments')
# Runs that were made small never stand beside real ones.
TINY = Path('work_dirs/experiments_tiny')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = job_adder(parser)

    def add_variant(command: argparse.ArgumentParser) -> None:
        command.add_argument('--code', action='store_true', help="with the authors' code's values, where they differ")
        command.add_argument('--tiny', action='store_true', help='a few steps on the built-in digits, on a CPU')
        command.add_argument('--root', type=Path, metavar='DIR', help=f'where runs go (default: {ROOT}, tiny: {TINY})')

    command = add('list', list_rows, 'one line for each row')
    command.add_argument('--paper', choices=list(catalogue().papers), help='of this paper')
    command.add_argument('--table', metavar='NAME', help='of this table or figure: 2, table2, fig4')
    command.add_argument('--norm', metavar='NORM', help='about this norm: BN, SN, EN, ILM, ...')
    command.add_argument('--data', metavar='NAME', help='on this data set: imagenet, coco, ade20k, ...')
    command.add_argument('--state', choices=STATES, help='built, or not')

    command = add('show', show, "a row: the paper's figures, what differs, the commands")
    command.add_argument('row', help='e.g. en/table6/ade20k-en')
    command.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='SEED')
    add_variant(command)
    command.add_argument('--gpus', type=int, metavar='N', help="in place of the row's number")

    command = add('run', run, 'run a row, with the pretraining that it needs first; goes on where it stopped')
    command.add_argument('rows', nargs='+', metavar='ROW', help="a row, a table ('sn/table2') or a pattern")
    command.add_argument('--seeds', nargs='+', type=int, default=[0], metavar='SEED', help='a run each (default: 0)')
    command.add_argument('--gpus', type=int, metavar='N', help="in place of the row's number")
    add_variant(command)

    command = add(
        'compare', compare, "what runs have reached, beside the paper's figures, with mean and spread of seeds"
    )
    command.add_argument('rows', nargs='+', metavar='ROW', help="a row, a table ('sn/table2') or a pattern")
    add_variant(command)
    command.add_argument('--out', type=Path, metavar='FILE', help='write the table there too, as Markdown')
    command.add_argument('--picture', type=Path, metavar='FILE', help='bars of the first figure of each row')
    command.add_argument('--curves', type=Path, metavar='FILE', help='the same over training')
    command.add_argument('--training', action='store_true', help='with --curves: on the training data too')

    add('document', document, 'write docs/experiments.md and configs/metafile.yml anew, in a checkout')
    return parser.parse_args()


def root_of(args: argparse.Namespace) -> Path:
    return (args.root or (TINY if args.tiny else ROOT)).absolute()


def planner_of(args: argparse.Namespace) -> Planner:
    root, shrink, gpus = root_of(args), None, args.gpus
    if args.tiny:
        from ..experiments.tiny import Tiny

        shrink, gpus = Tiny(root / 'digits'), 1
    return Planner(catalogue(), root, args.code, gpus, shrink)


def list_rows(args: argparse.Namespace) -> None:
    rows = catalogue().select(args.paper, args.table, args.norm, args.data, args.state)
    if not rows:
        raise UsageError('no row is of all that; mmnorm experiments list shows all there are')
    # As other commands of a shell end when head, say, has read enough; Windows has no such signal.
    if hasattr(signal, 'SIGPIPE'):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    width = max(len(row.id) for row in rows)
    for row in rows:
        figures = ', '.join(f'{catalogue().metrics[name].label} {value}' for name, value in row.paper.items())
        rest = f'not built: {row.why}' if row.kind == 'not built' else figures
        print(f'{row.id:{width}}  {row.row}{f"  [{rest}]" if rest else ""}')


def show(args: argparse.Namespace) -> None:
    from ..experiments.document import describe

    print(describe(catalogue(), catalogue()[args.row]))
    row = catalogue().run_of(catalogue()[args.row])
    if row.kind in ('not built', 'count'):
        return
    from ..experiments.commands import shell_line

    for step in planner_of(args).steps(row, args.seeds):
        print(f'\n# {step.title}{" (done)" if step.done else ""}\n{shell_line(step.command)}')


def run(args: argparse.Namespace) -> None:
    from ..experiments import run as running
    from ..experiments.class_order import check_class_order

    rows = [row for row in catalogue().matching(args.rows) if row.kind != 'not built' or len(args.rows) == 1]
    planner = planner_of(args)
    wanted: list[Experiment] = [row for row in rows if row.kind not in ('not built', 'count')] or rows
    running.check_gpus(max(planner.gpus_needed(row) for row in wanted), planner.gpus)
    steps = {step.result: step for row in wanted for step in planner.steps(row, args.seeds)}
    if not args.tiny and any(row.test and row.data in ('imagenet', 'webvision') for row in wanted):
        check_class_order(Path('data'))
    running.run(list(steps.values()))
    if any(row.paper for row in wanted):
        same = [*(['--tiny'] if args.tiny else []), *(['--code'] if args.code else [])]
        same += ['--root', str(args.root)] if args.root else []
        print(f'\nBeside the paper: mmnorm experiments compare {" ".join([*args.rows, *same])}')


def compare(args: argparse.Namespace) -> None:
    from ..analysis.figures.style import check_figure_name, save_figure
    from ..experiments import compare as comparing

    rows, root = catalogue().matching(args.rows), root_of(args)
    figures = [row for row in rows if row.kind in ('train', 'test', 'same')]
    if not figures:
        raise UsageError(f'{", ".join(args.rows)}: nothing of that is run; a figure is of the rows that it names')
    for path in filter(None, (args.picture, args.curves)):
        check_figure_name(path)
    lines = comparing.gather(catalogue(), figures, root, args.code)
    table = comparing.markdown(catalogue(), lines)
    print(table)
    if args.out:
        args.out.write_text(table, encoding='utf-8')
    if args.picture:
        save_figure(comparing.bars_figure(lines), args.picture)
    if args.curves:
        save_figure(comparing.curves_figure(catalogue(), figures, root, args.code, args.training), args.curves)


def document(args: argparse.Namespace) -> None:
    from ..experiments.document import document as page
    from ..experiments.model_index import metafile

    checkout = Path(__file__).resolve().parents[2]
    for name, written in {'docs/experiments.md': page, 'configs/metafile.yml': metafile}.items():
        path = checkout / name
        if not path.is_file():
            raise UsageError(f'{path} is not there; it is a file of a checkout of mmnorm')
        path.write_text(written(catalogue()), encoding='utf-8')
        print(f'wrote {path}')


def main() -> None:
    args = parse_args()
    args.job(args)
