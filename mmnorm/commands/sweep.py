"""Run sets of short trainings by a plan, sum up, draw: ``mmnorm sweep``.

A plan (``docs/results/*.yaml``) says what is run; the table beside it, what came of it. What is there is not run again.
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from ..cli.jobs import job_adder
from ..errors import UsageError
from ..experiments.sweeps.plan import read_plan
from ..experiments.sweeps.summary import Group, of_sets, sum_up
from ..experiments.sweeps.table import read_table

ROOT = Path('work_dirs/sweeps')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_job = job_adder(parser)

    def add(name: str, job, text: str) -> argparse.ArgumentParser:
        command = add_job(name, job, text)
        command.add_argument('plan', type=Path, help='a plan, e.g. docs/results/cifar10.yaml; its table is beside it')
        return command

    command = add('run', work, 'run what the plan has and the table has not, one by one; goes on; also several at once')
    command.add_argument('--root', type=Path, default=ROOT, metavar='DIR', help=f'where runs go (default: {ROOT})')
    command.add_argument(
        '--data-root',
        nargs='+',
        default=[],
        metavar='OLD=NEW',
        help='where data are that configs look for in OLD, e.g. data/camvid=/data/camvid',
    )
    command.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE', help='more of that kind'
    )

    add('list', list_runs, 'the runs of the plan, and which are done')

    command = add('summary', summarize, 'mean, spread and number of seeds by set, norm and rate')
    command.add_argument(
        '--best', action='store_true', help='of each norm its best rate alone, of those with the most seeds'
    )
    command.add_argument('--out', type=Path, metavar='FILE', help='write the table there too, as Markdown')

    command = add('compare', compare, 'how far each norm is from another, each at its best rate, in standard errors')
    command.add_argument('sets', nargs='*', metavar='SET', help='of these sets (default: all)')
    command.add_argument('--base', default='BN', metavar='NORM', help='from which (default: BN)')

    command = add('classes', classes, 'the IoU of each class, each norm at its best rate')
    command.add_argument('sets', nargs='*', metavar='SET', help='of these sets (default: all)')

    command = add('draw', draw, 'the metric by rate, or by norm, a panel for each set')
    command.add_argument('sets', nargs='*', metavar='SET', help='of these sets (default: all)')
    kind = command.add_mutually_exclusive_group()
    kind.add_argument('--curves', action='store_true', help='losses over training in place of it, at the best rate')
    kind.add_argument('--validations', action='store_true', help='the metric over training, at the best rate')
    kind.add_argument('--norms', action='store_true', help='the metric by norm, at the best rate, with every seed')
    command.add_argument('--out', type=Path, required=True, metavar='FILE')

    command = add('pictures', pictures, 'what the networks of a segmentation see, each norm at its best rate')
    command.add_argument('set', metavar='SET', help='of this set')
    command.add_argument('--root', type=Path, default=ROOT, metavar='DIR', help=f'where runs are (default: {ROOT})')
    command.add_argument('--images', type=int, default=3, metavar='N', help='how many (default: 3)')
    command.add_argument('--out', type=Path, required=True, metavar='FILE')
    return parser.parse_args()


def work(args: argparse.Namespace) -> None:
    from ..experiments.sweeps.queue import work_off

    wrong = [text for text in args.data_root if '=' not in text]
    if wrong:
        raise UsageError(f'--data-root: expected OLD=NEW, e.g. data/camvid=/data/camvid; got {", ".join(wrong)}')
    roots = dict(text.split('=', 1) for text in args.data_root)
    work_off(args.plan, args.root.absolute(), roots, args.cfg_options, lambda text: print(text, flush=True))


def list_runs(args: argparse.Namespace) -> None:
    plan = read_plan(args.plan)
    done = {record.run.key: record.value for record in read_table(plan.table)}
    for run in plan.runs:
        print(f'{run.title}: {f"{done[run.key]:.2f}" if run.key in done else "to run"}')


def summarize(args: argparse.Namespace) -> None:
    from ..experiments.sweeps.summary import markdown

    plan = read_plan(args.plan)
    table = markdown(sum_up(read_table(plan.table), args.best), plan.metrics)
    print(table)
    if args.out:
        args.out.write_text(table, encoding='utf-8')


def compare(args: argparse.Namespace) -> None:
    from ..experiments.sweeps.differences import differences, markdown

    print(markdown(differences(_best(args), args.base)))


def classes(args: argparse.Namespace) -> None:
    from ..experiments.sweeps.classes import markdown

    print(markdown(_best(args)))


def _best(args: argparse.Namespace) -> list[Group]:
    """The runs of the sets that are asked for, by norm, at its best rate."""
    groups = sum_up(read_table(read_plan(args.plan).table), best=True)
    return [group for some in of_sets(groups, args.sets).values() for group in some]


def pictures(args: argparse.Namespace) -> None:
    from ..analysis.figures.style import check_figure_name, save_figure
    from ..experiments.sweeps.pictures import pictures_figure

    check_figure_name(args.out)
    if args.images < 1:
        raise UsageError(f'--images: expected at least 1, got {args.images}')
    groups = of_sets(sum_up(read_table(read_plan(args.plan).table), best=True), [args.set])[args.set]
    save_figure(pictures_figure(groups, args.root / args.plan.stem, args.images), args.out)


def draw(args: argparse.Namespace) -> None:
    from ..analysis.figures.style import check_figure_name, save_figure
    from ..experiments.sweeps.figure import curves_figure, norms_figure, rates_figure, validations_figure

    check_figure_name(args.out)
    plan = read_plan(args.plan)
    chosen = {args.curves: curves_figure, args.validations: validations_figure, args.norms: norms_figure}
    make = chosen.get(True, rates_figure)
    save_figure(make(read_table(plan.table), plan.metrics, args.sets), args.out)


def main() -> None:
    args = parse_args()
    args.job(args)
