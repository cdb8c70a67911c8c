"""Our own checkpoints under the names of plain norms, for tools that know no others, and back."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..layers.siblings import NORM_NAME
from ..layers.state_dict import BUFFERS, reduce_state, source_of
from ..registry import NORMS, kinds_in_words

# What OpenMMLab calls a norm in a model.
ABBREVIATIONS = {'BN': 'bn', 'GN': 'gn', 'LN': 'ln', 'IN': 'in'}


@dataclass
class CheckpointReport:
    """What became of every entry of a checkpoint.

    Attributes:
        kept: Entries that are as they were.
        renamed: New name of each entry that was renamed, reshaped or otherwise carried over.
        added: Entries that the target needs and the source did not have.
        dropped: Why an entry was left out, by name.
        unmatched: Entries for which no place is known; they are left out too.
        notes: What else there is to know.
    """

    kept: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self, every: bool = False) -> list[str]:
        """The report, line by line.

        Args:
            every: Name every entry; else only three examples of each fate. Unmatched ones are always named.
        """
        converted = [f'{old} -> {new}' for old, new in self.renamed.items()]
        lines = []
        for title, items in dict(kept=self.kept, converted=converted, added=self.added).items():
            lines.append(f'{title:10}{len(items):5}  {_enumerate(items, every)}'.rstrip())
        # Nothing is left out in silence.
        lines.append(f'{"dropped":10}{len(self.dropped):5}')
        for reason in dict.fromkeys(self.dropped.values()):
            names = [name for name in self.dropped if self.dropped[name] == reason]
            lines.append(f'    {len(names)} {reason}: {_enumerate(names, every)}')
        lines.append(f'{"unmatched":10}{len(self.unmatched):5}')
        lines += [f'    {name}' for name in self.unmatched]
        return lines + self.notes

    def __str__(self) -> str:
        return '\n'.join(self.lines())


def _enumerate(names: list[str], every: bool) -> str:
    shown = names if every else names[:3]
    return ', '.join(shown) + (', ...' if len(names) > len(shown) else '')


def split_by_module(state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The entries of a state dict by the path of their module, '' for the model itself."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        path, _, name = key.rpartition('.')
        modules.setdefault(path, {})[name] = value
    return modules


def join(path: str, name: str) -> str:
    """The key of an entry of the module at ``path``."""
    return f'{path}.{name}' if path else name


def to_plain_state_dict(
    state_dict: Mapping[str, Tensor], norm: str = 'BN'
) -> tuple[dict[str, Tensor], dict[str, Tensor], CheckpointReport]:
    """Give learned norms in a state dict the names and shapes of a plain norm.

    Gamma, beta and running statistics are those of :func:`mmnorm.layers.state_dict.reduce_state`. What came from
    BatchNorm goes back with the same bits, unless it was trained since.

    Args:
        state_dict: Of a model with learned norms in any place.
        norm: 'BN', or 'GN', 'LN', 'IN', which have no running statistics.

    Returns:
        The state dict of the model with plain norms, all the entries of the learned norms as they were, from which
        :func:`from_plain_state_dict` restores them, and a report.

    Raises:
        ValueError: If there is no learned norm, or it has no running statistics and ``norm`` is 'BN'.
    """
    if norm not in ABBREVIATIONS:
        raise ValueError(f'norm must be one of {", ".join(ABBREVIATIONS)}, got {norm!r}')
    report = CheckpointReport()
    plain: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    losses: Counter[str] = Counter()
    for path, entries in split_by_module(state_dict).items():
        if source_of(entries) not in NORMS:
            plain.update({join(path, name): value for name, value in entries.items()})
            report.kept += [join(path, name) for name in entries]
            continue
        if norm == 'BN' and 'running_mean' not in entries:
            raise ValueError(
                f'{path} has no running statistics (its pool has no BN), and a BatchNorm without them computes '
                f'something else in eval mode. Give it the names of another norm, e.g. --to GN.'
            )
        own.update({join(path, name): value for name, value in entries.items()})
        losses.update(_add_plain_norm(path, entries, norm, plain, report))
    if not own:
        raise ValueError(f'there is no {kinds_in_words()} in it')
    report.notes += [f'{count} norms without {what}' for what, count in losses.items()]
    return plain, own, report


def _add_plain_norm(path: str, entries: dict, norm: str, plain: dict, report: CheckpointReport) -> list[str]:
    parent, _, name = path.rpartition('.')
    match = NORM_NAME.fullmatch(name)
    new_path = join(parent, f'{ABBREVIATIONS[norm]}{match[1]}') if match else path
    state = reduce_state(entries)
    for name, value in entries.items():
        old, new = join(path, name), join(new_path, name)
        if name not in state.entries or (norm != 'BN' and name in BUFFERS):
            report.dropped[old] = f'that {norm} has none of'
            continue
        plain[new] = state.entries[name]
        if old == new and value.shape == plain[new].shape:
            report.kept.append(old)
        else:
            report.renamed[old] = new
    return state.dropped


def from_plain_state_dict(plain: Mapping[str, Tensor], own: Mapping[str, Tensor], norm: str) -> dict[str, Tensor]:
    """The state dict that :func:`to_plain_state_dict` was given, from two of the things that it returned.

    Args:
        plain: The state dict with plain norms.
        own: The entries of the learned norms.
        norm: The plain norm.

    Raises:
        ValueError: If a plain norm changed since, so that the learned one would not be what belongs to it.
    """
    was, _, _ = to_plain_state_dict(own, norm)
    changed = [key for key in was if key not in plain or not plain[key].equal(was[key])]
    if changed:
        raise ValueError(f'{changed[0]} is not what it was: the plain norms were trained since, so nothing is restored')
    return {**{key: value for key, value in plain.items() if key not in was}, **own}
