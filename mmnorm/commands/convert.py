"""Convert checkpoints: published SN and ILM ones to OpenMMLab's names, or our own to those of plain norms and back."""

import argparse

from ..convert.checkpoints import ABBREVIATIONS, CheckpointReport, from_plain_state_dict, to_plain_state_dict
from ..convert.published import CODEBASES, convert_published
from ..errors import UsageError
from ..files import add_trust_argument, check_output, check_tensors, read_weights, write_checkpoint
from ..version import __version__

# Where a converted file keeps what BatchNorm has no place for; other tools read state_dict alone.
OWN = 'mmnorm'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('sources', nargs='+', metavar='SRC', help='checkpoint; several are the parts of one model')
    parser.add_argument('out', metavar='OUT', help='where the result goes')
    job = parser.add_mutually_exclusive_group(required=True)
    job.add_argument('--codebase', choices=CODEBASES, help="the authors' SN or ILM checkpoint to the names of this one")
    job.add_argument('--to', choices=ABBREVIATIONS, help='SN, EN and ILM to the names and shapes of this norm')
    job.add_argument('--restore', action='store_true', help='undo --to')
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    add_trust_argument(parser)
    parser.add_argument('--verbose', action='store_true', help='name every entry in the report')
    return parser.parse_args()


def rename_published(args: argparse.Namespace) -> tuple[dict, CheckpointReport]:
    state_dicts, rests = zip(*(read_weights(path, args.trust_checkpoint) for path in args.sources), strict=True)
    converted, report = convert_published(list(state_dicts), args.codebase)
    drop_rest({key: value for rest in rests for key, value in rest.items()}, report)
    return {'meta': {'mmnorm_version': __version__}, 'state_dict': converted}, report


def make_plain(args: argparse.Namespace) -> tuple[dict, CheckpointReport]:
    state_dict, rest = read_weights(single_source(args), args.trust_checkpoint)
    meta = rest.pop('meta', {})
    plain, own, report = to_plain_state_dict(state_dict, args.to)
    drop_rest(rest, report)
    report.notes.append('the file keeps the learned norms beside the weights, for --restore')
    return {'meta': meta, 'state_dict': plain, OWN: {'norm': args.to, 'state_dict': own}}, report


def restore(args: argparse.Namespace) -> tuple[dict, CheckpointReport]:
    source = single_source(args)
    plain, rest = read_weights(source, args.trust_checkpoint)
    kept = rest.pop(OWN, None)
    if not isinstance(kept, dict) or not isinstance(kept.get('state_dict'), dict):
        raise UsageError(f'{source} does not keep the learned norms; expected a file that --to has written')
    own = check_tensors(f'{OWN} in {source}', kept['state_dict'])
    meta = rest.pop('meta', {})
    report = CheckpointReport()
    state_dict = from_plain_state_dict(plain, own, str(kept.get('norm')))
    report.kept = [key for key in state_dict if key in plain]
    report.added = [key for key in state_dict if key not in plain]
    drop_rest(rest, report)
    return {'meta': meta, 'state_dict': state_dict}, report


def single_source(args: argparse.Namespace) -> str:
    if len(args.sources) > 1:
        raise UsageError(f'expected one SRC, got {len(args.sources)}; only --codebase puts parts together')
    return args.sources[0]


def drop_rest(rest: dict, report: CheckpointReport) -> None:
    """The state of a training run is of the parameters as they were."""
    report.dropped.update(dict.fromkeys(rest, 'not of the weights'))


def main() -> None:
    args = parse_args()
    check_output(args.out, args.force)
    convert = rename_published if args.codebase else make_plain if args.to else restore
    try:
        checkpoint, report = convert(args)
    except ValueError as error:
        raise UsageError(f'{", ".join(args.sources)}: {error}') from None
    write_checkpoint(checkpoint, args.out)
    print('\n'.join(report.lines(every=args.verbose)))
    print(f'wrote {args.out}')
