"""The data in a pickle, without running it.

A pickle is a program: it names functions and calls them. This is an interpreter of its instructions that looks nothing
up in the running Python. A name is only a name; what a call of it is to give is made by the functions of
:mod:`.contents`, and whatever else a pickle asks for is refused. :mod:`pickletools` decodes the instructions; those
that are not listed here (old-style instances, extensions, keyword arguments) are refused too.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from .contents import MAKERS, Name, NotData, check_keys, describe, named, set_state


class DataUnpickler:
    """Reads one pickle.

    Args:
        file: The file, at the first byte of the pickle; afterwards behind its last.
        storage: Makes the storage of a tensor from the reference that PyTorch leaves in the pickle. Without it a
            reference is refused.
    """

    def __init__(self, file: BinaryIO, storage: Callable[[tuple], object] | None = None) -> None:
        self._file, self._storage = file, storage
        # As in pickle: a mark begins a new stack and lays the old one by.
        self._stack: list = []
        self._below: list[list] = []
        self._memo: dict[int, object] = {}

    def load(self) -> Any:
        """The data.

        Raises:
            NotData: If there is more than data.
            EOFError: If the file ends before the pickle does.
            ValueError: If it is damaged; other exceptions of Python's too.
        """
        try:
            for instruction, argument, _ in pickletools.genops(self._file):
                if instruction.name in _VALUES:
                    self._stack.append(argument)
                elif instruction.name in _INSTRUCTIONS:
                    _INSTRUCTIONS[instruction.name](self, argument)
                else:
                    raise NotData(f'the instruction {instruction.name} of pickle')
        except ValueError as error:
            # So genops says it.
            if not self._file.read(1):
                raise EOFError(str(error)) from None
            raise
        return self._stack.pop()

    def _since_mark(self) -> list:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _push(self, value) -> None:
        self._stack.append(value)

    def _text(self, text: str) -> None:
        # Of Python 2, in which text is bytes; pickletools takes them for Latin-1.
        self._stack.append(text.encode('latin-1').decode('utf-8'))

    def _mark(self, _) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self, _) -> None:
        self._stack.pop() if self._stack else self._since_mark()

    def _tuple_of(self, size: int) -> None:
        self._stack[-size:] = [tuple(self._stack[-size:])]

    def _pairs(self) -> Iterable[tuple]:
        items = self._since_mark()
        return zip(_keys(items[::2]), items[1::2], strict=True)

    def _target(self, *kinds: type):
        target = self._stack[-1]
        if type(target) not in kinds:
            raise NotData(f'items put into {describe(target)}')
        return target

    def _append(self, _) -> None:
        item = self._stack.pop()
        self._target(list).append(item)

    def _appends(self, _) -> None:
        items = self._since_mark()
        self._target(list).extend(items)

    def _add_items(self, _) -> None:
        items = self._since_mark()
        self._target(set).update(_keys(items))

    def _set_item(self, _) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        check_keys([key])
        self._target(dict, OrderedDict)[key] = value

    def _set_items(self, _) -> None:
        pairs = self._pairs()
        self._target(dict, OrderedDict).update(pairs)

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _global(self, name: str) -> None:
        module, _, name = name.partition(' ')
        self._name(module, name)

    def _stack_global(self, _) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        known = named(f'{module}.{name}')
        if known is None:
            raise NotData(f'{module}.{name}')
        self._stack.append(known)

    def _make(self, _) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        make = MAKERS.get(name.path) if isinstance(name, Name) else None
        if make is None or not isinstance(arguments, tuple):
            raise NotData(f'a call of {describe(name)}')
        self._stack.append(make(*arguments))

    def _set_state(self, _) -> None:
        state = self._stack.pop()
        set_state(self._stack[-1], state)

    def _reference(self, _) -> None:
        reference = self._stack.pop()
        if self._storage is None or not isinstance(reference, tuple) or reference[:1] != ('storage',):
            raise NotData('a reference to something that is no storage of a tensor')
        self._stack.append(self._storage(reference))


def _keys(keys: list) -> list:
    check_keys(keys)
    return keys


# Instructions whose argument is the value.
_VALUES = frozenset(
    ['INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT']
    + ['UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8']
    + ['SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8']
)
# Each gets its argument, of the type that the instruction has.
_INSTRUCTIONS: dict[str, Callable[[DataUnpickler, Any], object]] = {
    'PROTO': lambda self, _: None,
    'FRAME': lambda self, _: None,
    'STOP': lambda self, _: None,
    'NONE': lambda self, _: self._push(None),
    'NEWTRUE': lambda self, _: self._push(True),
    'NEWFALSE': lambda self, _: self._push(False),
    'EMPTY_TUPLE': lambda self, _: self._push(()),
    'EMPTY_LIST': lambda self, _: self._push([]),
    'EMPTY_DICT': lambda self, _: self._push({}),
    'EMPTY_SET': lambda self, _: self._push(set()),
    'STRING': DataUnpickler._text,
    'BINSTRING': DataUnpickler._text,
    'SHORT_BINSTRING': DataUnpickler._text,
    'MARK': DataUnpickler._mark,
    'POP': DataUnpickler._pop,
    'POP_MARK': lambda self, _: self._since_mark(),
    'TUPLE': lambda self, _: self._push(tuple(self._since_mark())),
    'TUPLE1': lambda self, _: self._tuple_of(1),
    'TUPLE2': lambda self, _: self._tuple_of(2),
    'TUPLE3': lambda self, _: self._tuple_of(3),
    'LIST': lambda self, _: self._push(self._since_mark()),
    'FROZENSET': lambda self, _: self._push(frozenset(_keys(self._since_mark()))),
    'DICT': lambda self, _: self._push(dict(self._pairs())),
    'APPEND': DataUnpickler._append,
    'APPENDS': DataUnpickler._appends,
    'ADDITEMS': DataUnpickler._add_items,
    'SETITEM': DataUnpickler._set_item,
    'SETITEMS': DataUnpickler._set_items,
    'GET': lambda self, index: self._push(self._memo[index]),
    'BINGET': lambda self, index: self._push(self._memo[index]),
    'LONG_BINGET': lambda self, index: self._push(self._memo[index]),
    'PUT': DataUnpickler._put,
    'BINPUT': DataUnpickler._put,
    'LONG_BINPUT': DataUnpickler._put,
    'MEMOIZE': lambda self, _: self._put(len(self._memo)),
    'GLOBAL': DataUnpickler._global,
    'STACK_GLOBAL': DataUnpickler._stack_global,
    'REDUCE': DataUnpickler._make,
    'NEWOBJ': DataUnpickler._make,
    'BUILD': DataUnpickler._set_state,
    'BINPERSID': DataUnpickler._reference,
}
