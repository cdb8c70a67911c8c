"""Docstrings as Sphinx reads them, with roles and math, to what the site's Markdown reads."""

import re
import textwrap

from griffe import Class, Extension, Function, Module, Object

ROLE = re.compile(r':(?P<role>[a-z]+):`(?P<text>[^`]+)`')
MATH = re.compile(
    r'^(?P<indent> *)\.\. math::[ \t]*(?P<first>[^\n]*)\n(?P<rest>(?:(?P=indent) +[^\n]*\n|[ ]*\n)*)', re.MULTILINE
)


class SphinxRoles(Extension):
    """Links in place of roles, where there is something to link to; math between dollars."""

    def on_module_instance(self, *, mod: Module, **_) -> None:
        self._read(mod)

    def on_class_instance(self, *, cls: Class, **_) -> None:
        self._read(cls)

    def on_function_instance(self, *, func: Function, **_) -> None:
        self._read(func)

    def _read(self, thing: Object) -> None:
        if thing.docstring is not None:
            text = MATH.sub(_display, thing.docstring.value + '\n')
            # What follows is a block of code by its indentation.
            text = re.sub(r'(?<=\S)::$', ':', text, flags=re.MULTILINE)
            thing.docstring.value = ROLE.sub(lambda match: _inline(match, thing), text).rstrip()


def _display(match: re.Match) -> str:
    lines = textwrap.dedent(match['rest']).strip()
    formula = textwrap.indent('\n'.join(filter(None, [match['first'], lines])), match['indent'])
    return f'{match["indent"]}$$\n{formula}\n{match["indent"]}$$\n\n'


def _inline(match: re.Match, thing: Object) -> str:
    text = match['text']
    if match['role'] == 'math':
        return f'${text}$'
    name = text.lstrip('~.')
    shown = name.rpartition('.')[2] if text.startswith('~') else name
    try:
        target = name if name.startswith('mmnorm.') else thing.resolve(name)
    except Exception:  # whatever is not a name of this package
        return f'`{shown}`'
    # Not all that is named has a place on the site.
    return f'<autoref optional identifier="{target}">`{shown}`</autoref>'
