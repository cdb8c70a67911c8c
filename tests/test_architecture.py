"""Nothing imports what stands above it, and no file imports itself by way of others."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the foundations upwards; what stands in one line knows nothing of each other's insides, but may.
ORDER = [
    ('version', 'errors', 'prerequisites', 'timing'),
    ('registry',),
    ('ops',),
    ('layers', 'files'),
    ('convert',),
    ('engine', 'models', 'datasets'),
    ('cli',),
    ('analysis',),
    ('experiments',),
    ('commands',),
    ('__main__',),
]
HEIGHT = {part: height for height, parts in enumerate(ORDER) for part in parts}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / 'mmnorm').rglob('*.py'))}


def imports_of(name):
    """The modules of the package that a module imports, inside of functions too."""
    path = MODULES[name]
    package = name.split('.') if path.name == '__init__.py' else name.split('.')[:-1]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, 'id', None) == 'TYPE_CHECKING':
            # Seen by type checkers alone.
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split('.') if node.module else []
            for alias in node.names:
                target = '.'.join([*base, alias.name])
                yield target if target in MODULES else '.'.join(base)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


GRAPH = {name: {t for t in imports_of(name) if t in MODULES and t != name} for name in MODULES}


def part_of(name):
    return name.split('.')[1]


def test_every_part_has_its_place():
    assert {part_of(name) for name in MODULES if '.' in name} == set(HEIGHT)


def test_nothing_knows_what_is_above_it():
    above = [
        f'{name} imports {target}'
        for name, targets in GRAPH.items()
        if '.' in name
        for target in targets
        if '.' in target and HEIGHT[part_of(target)] > HEIGHT[part_of(name)]
    ]
    assert not above, '\n'.join(above)


def test_no_circles():
    # A package imports its own modules, which import from the package's other modules, not from it.
    TopologicalSorter({name: targets for name, targets in GRAPH.items() if name != 'mmnorm'}).prepare()
