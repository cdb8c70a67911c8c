"""Checkpoints that run code when they are unpickled, written instruction by instruction."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

LAYOUTS = ('zip', 'series')


def name(module: str, qualname: str) -> bytes:
    return f'c{module}\n{qualname}\n'.encode()


def text(value: str) -> bytes:
    return b'X' + struct.pack('<I', len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b'J' + struct.pack('<i', value)


def items(*values: bytes) -> bytes:
    return b'(' + b''.join(values) + b't'


def mapping(**values: bytes) -> bytes:
    return b'}(' + b''.join(text(key) + value for key, value in values.items()) + b'u'


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + items(*arguments) + b'R'


def attribute(owner: bytes, of: str) -> bytes:
    return call(name('__builtin__', 'getattr'), owner, text(of))


def new(cls: bytes) -> bytes:
    return cls + b')\x81'


def with_state(target: bytes, state: bytes) -> bytes:
    return target + state + b'b'


def plain(value) -> bytes:
    """A value as pickle writes it, without its head and end."""
    return pickle.dumps(value, protocol=2)[2:-1]


class Evil:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


class EvilDict(Evil, OrderedDict):
    """The same, of a class that is let in."""


def attacks(marker: Path) -> dict[str, bytes]:
    """Pickles, without head and end, that make the file ``marker`` when they are run; by what they do."""
    history = name('mmengine.logging.history_buffer', 'HistoryBuffer')
    ordered_dict = name('collections', 'OrderedDict')
    from_type = name('torch._tensor', '_rebuild_from_type_v2')
    code = text(f'open({str(marker)!r}, "w").close()')
    init = attribute(history, '__init__')
    # Into HistoryBuffer's own module: exec in place of len, which HistoryBuffer calls with what it is given.
    execute = attribute(with_state(new(history), attribute(init, '__builtins__')), 'exec')
    poisoned = attribute(init, '__globals__') + text('len') + execute + b's'
    counter = name('collections', 'Counter')
    later = call(name('functools', 'partial'), name('__builtin__', 'exec'), code)
    subclasses = call(attribute(attribute(history, '__base__'), '__subclasses__'))
    index = number(object.__subclasses__().index(os._wrap_close))
    in_os = attribute(attribute(call(attribute(subclasses, '__getitem__'), index), '__init__'), '__globals__')
    reduced = call(attribute(new(history), '__reduce_ex__'), number(2))
    in_copyreg = attribute(call(attribute(reduced, '__getitem__'), number(0)), '__builtins__')
    replaced = with_state(counter, items(b'N', mapping(update=later)))
    return {
        'globals of a method': items(poisoned, call(history, code, text(''))),
        '__self__ of a function': call(
            from_type,
            attribute(attribute(name('__builtin__', 'getattr'), '__self__'), 'exec'),
            name('torch', 'Tensor'),
            items(code),
            b'N',
        ),
        '__subclasses__': call(call(attribute(in_os, 'get'), text('system')), text(f"touch '{marker}'")),
        '__reduce__ of what is let in': call(call(attribute(in_copyreg, 'get'), text('exec')), code),
        '__reduce__ of a subclass': plain(EvilDict(marker)),
        'array of objects': plain(np.array([Evil(marker)], dtype=object)),
        'deep in containers': plain({'a': [({'b': {'c': ({'d': [Evil(marker)]},)}},)]}),
        'method of a class replaced': items(replaced, call(counter)),
        'method of a dict replaced': call(attribute(with_state(call(ordered_dict), mapping(copy=later)), 'copy')),
        'tensor of a hostile function': call(from_type, later, name('torch', 'Tensor'), b')', b'N'),
        'call of a function': call(name('__builtin__', 'open'), text(str(marker)), text('w')),
    }


def write(path: Path, attack: bytes, layout: str) -> Path:
    """Write a checkpoint of torch.save with a pickle in it.

    Args:
        path: The file.
        attack: A pickle without head and end.
        layout: 'zip', or 'series' as before PyTorch 1.6.

    Returns:
        The path.
    """
    content = b'\x80\x02' + mapping(state_dict=b'}', meta=plain({'epoch': 1, 'iter': 1}), rest=attack) + b'.'
    if layout == 'zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('archive/data.pkl', content)
            archive.writestr('archive/byteorder', 'little')
            archive.writestr('archive/version', '3\n')
    else:
        head = 0x1950A86A20F9469CFC6C, 1001, dict(protocol_version=1001, little_endian=True, type_sizes={})
        path.write_bytes(b''.join(pickle.dumps(part, 2) for part in head) + content + pickle.dumps([], 2))
    return path
