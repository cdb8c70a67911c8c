"""Which norm layers of a model are meant, where they stand, and whether it is safe to replace them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ..registry import NORMS
from .sources import PLAIN_KINDS, kind_of


@dataclass
class Site:
    """A norm layer with all the places where it stands.

    Attributes:
        module: The layer.
        names: Its paths from the root of the model; more than one where it, or a module above it, is shared.
        places: The modules that hold it, with the name that it has there.
        neighbor: Some tensor of the model, for the device and type of a layer that has no tensor of its own.
    """

    module: nn.Module
    names: list[str] = field(default_factory=list)
    places: list[tuple[nn.Module, str]] = field(default_factory=list)
    neighbor: Tensor | None = None

    @property
    def name(self) -> str:
        """The first of its paths."""
        return self.names[0]


def is_norm(module: nn.Module) -> bool:
    """Whether it is a norm layer of any kind."""
    return kind_of(module) is not None


def find_sites(model: nn.Module, is_wanted: Callable[[nn.Module], bool] = is_norm) -> list[Site]:
    """All norm layers, or others that are wanted, below ``model``, in the order of the model."""
    sites: dict[int, Site] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        if not path or not is_wanted(module):
            continue
        parent, _, key = path.rpartition('.')
        site = sites.setdefault(id(module), Site(module))
        site.names.append(path)
        # The parent may be shared: one place, several paths.
        if not any(holder is modules[parent] and name == key for holder, name in site.places):
            site.places.append((modules[parent], key))
    for site in sites.values():
        candidates = (p for module in (site.places[0][0], model) for p in module.parameters())
        site.neighbor = next((p for p in candidates if p.is_floating_point()), None)
    return list(sites.values())


def find_ties(model: nn.Module, sites: list[Site]) -> dict[int, str]:
    """Why some layers can't be replaced although they could be by themselves: id of the module to the reason."""
    ids = {id(site.module) for site in sites}
    ties = {}
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == '_modules':
                continue
            values = value.values() if isinstance(value, dict) else value
            # Containers only: an iterator would be used up.
            for item in values if isinstance(value, dict | list | tuple | set) else [value]:
                if isinstance(item, nn.Module) and id(item) in ids:
                    ties[id(item)] = f'{path or "the model"} holds it in {attribute} too, outside of its modules'
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for site in sites:
        if any(p is not None and uses[id(p)] > 1 for p in site.module._parameters.values()):
            ties[id(site.module)] = 'shares its parameters with another layer'
    return ties


class Selection:
    """Layers by type, by name and by predicate.

    Args:
        types: As in :func:`convert_norm`, and likewise the next three.
        include: Patterns of names.
        exclude: Patterns of names to leave out.
        predicate: Function of name and module.
        among: The kinds of norms that come into question at all; None for any.

    Raises:
        ValueError: If ``types`` names an unknown kind or nothing.
        TypeError: If an argument is of a wrong type.
    """

    def __init__(
        self,
        types: str | type | Iterable[str | type],
        include: str | Iterable[str] | None,
        exclude: str | Iterable[str] | None,
        predicate: Callable[[str, nn.Module], bool] | None,
        among: Collection[str] | None = None,
    ) -> None:
        self.among = among
        self.kinds, self.classes = _parse_types(types)
        self.include = _as_patterns('include', include)
        self.exclude = _as_patterns('exclude', exclude)
        if predicate is not None and not callable(predicate):
            raise TypeError(f'predicate must be a function of name and module, got {predicate!r}')
        self.predicate = predicate

    def check_patterns(self, model: nn.Module) -> None:
        """Raise a ValueError for a pattern that matches no module, which is misspelt rather than meant."""
        names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        for argument in ('include', 'exclude'):
            for pattern in getattr(self, argument) or ():
                if not any(_matches(name, [pattern]) for name in names):
                    children = ', '.join(name for name, _ in model.named_children())
                    raise ValueError(f'{argument}={pattern!r} matches no module; at its top the model has: {children}')

    def names_class(self, cls: type) -> bool:
        """Whether this very class, not an ancestor, is asked for."""
        return cls in self.classes

    def has_type(self, module: nn.Module) -> bool:
        """Whether the type of the module is asked for."""
        kind = kind_of(module)
        return (self.among is None or kind in self.among) and (kind in self.kinds or isinstance(module, self.classes))

    def has_name(self, site: Site) -> bool:
        """Whether the layer is asked for by name: at one of its places at least, and excluded at none."""
        included = self.include is None or any(_matches(name, self.include) for name in site.names)
        return included and not any(_matches(name, self.exclude or ()) for name in site.names)

    def why_not(self, site: Site) -> str | None:
        """Why the layer is not selected; None if it is."""
        if not self.has_type(site.module):
            return 'its type was not asked for'
        if not self.has_name(site):
            return 'not selected by name'
        if self.predicate is not None and not self.predicate(site.name, site.module):
            return 'the predicate refused it'
        return None


def _parse_types(types) -> tuple[set[str], tuple[type, ...]]:
    entries = [types] if isinstance(types, str | type) else list(types)
    kinds: set[str] = set()
    classes: list[type[nn.Module]] = []
    for entry in entries:
        if isinstance(entry, type) and issubclass(entry, nn.Module):
            classes.append(entry)
        elif entry == 'all':
            kinds.update(PLAIN_KINDS)
            # They can't be replaced, and the report shall say so.
            kinds.add('other')
        elif isinstance(entry, str) and entry in (*PLAIN_KINDS, *NORMS):
            kinds.add(entry)
        else:
            known = ', '.join((*PLAIN_KINDS, *NORMS))
            raise ValueError(f'types: expected classes of modules, "all" or any of {known}; got {entry!r}')
    if not entries:
        raise ValueError(
            'types is empty; give classes or kinds of norms, or leave it out for BatchNorm and SyncBatchNorm'
        )
    return kinds, tuple(classes)


def _as_patterns(argument: str, patterns) -> list[str] | None:
    if patterns is None:
        return None
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise TypeError(f'{argument} must be a pattern of module names, or several, got {patterns!r}')
    return patterns


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f'{pattern}.*') for pattern in patterns)
