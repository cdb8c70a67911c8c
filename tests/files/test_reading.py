"""What torch.save writes is read as it is, by every layout and protocol; what is damaged is refused without a crash."""

import io
import pickle
import random
import sys
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hostile import LAYOUTS, attribute, call, items, mapping, name, new, number, plain, text, with_state, write
from torch import nn

from mmnorm.errors import UsageError
from mmnorm.files import read_checkpoint, read_weights
from mmnorm.files.contents import LogBuffer, Method


def can_be_saved(kind):
    """PyTorch 2.1 has some types that its files can't have."""
    try:
        torch.save(torch.ones(1).to(getattr(torch, kind)), io.BytesIO())
    except (AttributeError, KeyError):
        return False
    return True


NEW_TYPES = [getattr(torch, kind) for kind in ('float8_e4m3fn', 'uint16', 'uint32') if can_be_saved(kind)]


def everything():
    """Of each kind something, with memory that is shared."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    numbers = [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int32, torch.complex64]
    state_dict = model.state_dict()
    return {
        'state_dict': state_dict,
        'again': state_dict,
        'views': [base, base[0], base.permute(2, 0, 1), base[:, 1:2], base.flatten()[5:9].expand(2, 4)],
        'types': [torch.ones(3).to(kind) for kind in [*numbers, torch.bool, *NEW_TYPES]],
        'none of it': [torch.zeros(0, 3), torch.tensor(1.5), torch.zeros(2, 0, 4)],
        'parameters': [nn.Parameter(base[0].clone()), nn.Parameter(base[1], False), torch.ones(2, requires_grad=True)],
        'torch': (torch.float16, torch.Size([2, 3]), torch.device('cuda', 1), torch.device('cpu')),
        'arrays': [
            np.arange(6).reshape(2, 3),
            np.asfortranarray(np.random.rand(2, 3)),
            np.zeros((0, 3), np.uint8),
            np.array(2.5),
            np.array(['a', 'bcd']),
            np.array([True, False]),
        ],
        'scalars': [np.float64(0.1), np.float32(0.1), np.int64(-3), np.bool_(True), np.uint8(200)],
        'python': [
            None, True, False, 0, -1, 255, 65536, -(2**31), 2**40, -(2**90), 1.5, float('inf'), 1 + 2j,
            'ä \N{SNOWMAN}', '', b'', b'\x00\xff', bytearray(b'ab'), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4),
            [], [[]], {1, 2}, frozenset([3]), set(), slice(1, None, 2), Counter([1, 1, 5]), OrderedDict(a=1),
            {1: {(2, 3): 'x'}},
        ],
    }  # fmt: skip


def assert_same(a, b, path=''):
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), path
        assert a.requires_grad == b.requires_grad, path
        assert a.dtype in NEW_TYPES or a.equal(b), path
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.flags.f_contiguous) == (b.dtype, b.shape, b.flags.f_contiguous), path
        assert b.flags.writeable
        assert (a == b).all(), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f'{path}.{key}')
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for index, pair in enumerate(zip(a, b)):
            assert_same(*pair, f'{path}.{index}')
    else:
        assert a == b, path


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_everything(tmp_path, layout, protocol):
    path = tmp_path / 'c.pth'
    written = everything()
    if layout == 'series':
        # It can't share memory between types, nor has it these.
        written['types'] = [tensor for tensor in written['types'] if tensor.dtype not in NEW_TYPES]
    torch.save(written, path, _use_new_zipfile_serialization=layout == 'zip', pickle_protocol=protocol)
    for mmap in (False, True):
        read = read_checkpoint(str(path), mmap=mmap)
        assert_same(written, read)
        assert read['state_dict']._metadata == written['state_dict']._metadata
        assert read['again'] is read['state_dict']
        # What shared memory shares it.
        read['views'][0][0, 0, 0] = 77
        assert read['views'][1][0, 0] == 77
        assert read['views'][2][0, 0, 0] == 77
    assert_same(written, read_checkpoint(str(path)), 'the file is as it was')


def test_read_by_more_than_one_name_of_numpy(tmp_path):
    """numpy 1 and numpy 2 have the same functions in different modules."""
    for module in (b'numpy.core', b'numpy._core'):
        array = plain(np.arange(3.0)).replace(b'numpy._core', b'numpy.core').replace(b'numpy.core', module)
        path = write(tmp_path / 'c.pth', array, 'zip')
        assert (read_checkpoint(str(path))['rest'] == np.arange(3.0)).all()


def test_text_of_python_2(tmp_path):
    path = write(tmp_path / 'c.pth', b'U\x05\xc3\xa4bcd', 'series')
    assert read_checkpoint(str(path))['rest'] == 'äbcd'


def test_devices(tmp_path):
    path = tmp_path / 'c.pth'
    torch.save({'a': torch.arange(3.0)}, path)
    seen = []

    def function(storage, location):
        seen.append(location)
        return storage

    for map_location in ('cpu', torch.device('cpu'), {'cpu': 'cpu'}, function, lambda storage, location: None, None):
        assert read_checkpoint(str(path), map_location=map_location)['a'].equal(torch.arange(3.0))
    assert seen == ['cpu']
    assert read_checkpoint(str(path), map_location={'cpu': 'meta'})['a'].device.type == 'meta'


def test_other_byte_order(tmp_path):
    path = tmp_path / 'c.pth'
    torch.save({'a': torch.arange(3.0), 'b': torch.arange(3)}, tmp_path / 'own.pth')
    with zipfile.ZipFile(tmp_path / 'own.pth') as own, zipfile.ZipFile(path, 'w') as other:
        for entry in own.infolist():
            content = own.read(entry)
            if '/data/' in entry.filename:
                content = np.frombuffer(content, '<f4' if len(content) == 12 else '<i8').byteswap().tobytes()
            other.writestr(entry, 'big' if entry.filename.endswith('byteorder') else content)
    assert sys.byteorder == 'little'
    for mmap in (False, True):
        read = read_checkpoint(str(path), mmap=mmap)
        assert read['a'].equal(torch.arange(3.0))
        assert read['b'].equal(torch.arange(3))


def test_log_and_methods(tmp_path):
    """What mmengine adds is read without mmengine."""
    history = name('mmengine.logging.history_buffer', 'HistoryBuffer')
    one_cycle = name('mmengine.optim.scheduler.param_scheduler', 'OneCycleParamScheduler')
    state = mapping(
        _log_history=plain(np.array([1.5, 2.5])),
        _count_history=plain(np.array([1, 1])),
        max_length=number(10),
        statistics_methods=mapping(mean=attribute(history, 'mean')),
    )
    content = items(with_state(new(history), state), attribute(one_cycle, '_annealing_cos'))
    log, method = read_checkpoint(str(write(tmp_path / 'c.pth', content, 'zip')))['rest']
    assert isinstance(log, LogBuffer)
    assert log.log_history.tolist() == [1.5, 2.5]
    assert (log.count_history.tolist(), log.max_length) == ([1, 1], 10)
    assert method == Method('mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler._annealing_cos')


ORDERED = call(name('collections', 'OrderedDict'))
TENSOR = name('torch._utils', '_rebuild_tensor_v2')
HISTORY = name('mmengine.logging.history_buffer', 'HistoryBuffer')
ARRAY = plain(np.arange(3.0))
# Made of names that are let in alone.
MISUSED = {
    'a method of a dict': (attribute(ORDERED, 'update'), 'a OrderedDict.update'),
    'getattr of getattr': (attribute(name('builtins', 'getattr'), '__self__'), 'builtins.getattr.__self__'),
    'a private method': (attribute(HISTORY, '_set_default_statistics'), 'HistoryBuffer._set_default_statistics'),
    'a method by its long name': (
        b'\x80\x04' + text('mmengine.logging.history_buffer') + text('HistoryBuffer.__init__') + b'\x93',
        'mmengine.logging.history_buffer.HistoryBuffer.__init__',
    ),
    'a call of a method': (call(attribute(HISTORY, 'mean')), 'a call of mmengine'),
    'a call of a type': (call(name('torch', 'FloatStorage'), number(8)), 'a call of torch.FloatStorage'),
    'a call of a value': (call(text('a')), 'a call of a str'),
    'state of a function': (with_state(TENSOR, mapping(__code__=b'N')), 'a state for torch._utils._rebuild_tensor_v2'),
    'state of a list': (with_state(b']', mapping(a=b'N')), 'a state for a list'),
    'class of a dict': (with_state(ORDERED, mapping(__class__=HISTORY)), 'attributes of an OrderedDict'),
    'slots of a dict': (with_state(ORDERED, items(b'N', mapping(_metadata=b'}'))), 'attributes of an OrderedDict'),
    'versions that are none': (with_state(ORDERED, mapping(_metadata=HISTORY)), 'attributes of an OrderedDict'),
    'state of a counter': (
        with_state(call(name('collections', 'Counter')), mapping(update=b'N')),
        'a state for a Counter',
    ),
    'items into a tuple': (b')' + text('a') + text('b') + b's', 'items put into a tuple'),
    'items into a log': (new(HISTORY) + text('a') + text('b') + b's', 'items put into a LogBuffer'),
    'items into a class': (HISTORY + b'(' + text('a') + b'e', 'items put into mmengine'),
    'structured array': (call(name('numpy', 'dtype'), text('V8')), "a NumPy array of 'V8'"),
    'type by a sequence': (call(name('numpy', 'dtype'), b']'), 'a NumPy array of []'),
    'fields of a type': (
        with_state(call(name('numpy', 'dtype'), text('f8')), plain((3, '<', None, ('a',), {'a': 1}, 8, 8, 0))),
        'a NumPy array of structures',
    ),
    'list for an array': (
        with_state(ARRAY, items(number(1), plain((1,)), call(name('numpy', 'dtype'), text('f8')), b'\x89', b']')),
        'a NumPy array of objects',
    ),
    'extension': (b'\x82\x01', 'EXT1'),
    'old instance': (b'(icollections\nOrderedDict\n', 'INST'),
    'object': (b'(' + HISTORY + b'o', 'OBJ'),
    'keywords': (HISTORY + b')}\x92', 'NEWOBJ_EX'),
    'a text as reference': (b'Pstorage\n', 'PERSID'),
    'a reference to code': (items(text('module'), HISTORY, text('a'), text('b')) + b'Q', 'no storage of a tensor'),
}
# Of the right form, and wrong.
STORAGE = items(text('storage'), name('torch', 'FloatStorage'), text('0'), text('cpu'), number(0)) + b'Q'
DAMAGED = {
    'nothing there': b'0' * 9,
    'a mark too few': b't',
    'an unknown reference': b'h\x07',
    'bytes in another code': call(name('_codecs', 'encode'), text('a'), text('rot13')),
    'a tensor without a storage': call(TENSOR, b'N', number(0), plain((1,)), plain((1,)), b'\x89', b'N'),
    'a tensor beyond its storage': call(TENSOR, STORAGE, number(0), plain((9,)), plain((1,)), b'\x89', b'N'),
    'a size that is negative': call(TENSOR, STORAGE, number(0), plain((-9,)), plain((1,)), b'\x89', b'N'),
    'a huge size': call(TENSOR, STORAGE, number(0), plain((2**62, 2**62, 0)), plain((0, 0, 0)), b'\x89', b'N'),
    'a parameter without a tensor': call(name('torch._utils', '_rebuild_parameter'), HISTORY, b'\x89', b'N'),
    'an array of another size': with_state(ARRAY, plain((1, (9,), np.dtype('f8'), False, b'abc'))),
    'a log of texts': with_state(new(HISTORY), plain(dict(_log_history='a', _count_history='b', max_length=3))),
    'a log with arguments': call(HISTORY, text('open("x", "w")'), text('')),
    'a key without end': b'}' + b')' + b'\x85' * 300_000 + b'Ns',
    'an item without end': call(name('builtins', 'set'), b'](' + b')' + b'\x85' * 300_000 + b'e'),
    'a key that takes for ever': b'})' + b'q\x07h\x07\x86' * 60 + b'Ns',
    'a key that has no hash': b'}]' + text('a') + b's',
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('content', 'message'), MISUSED.values(), ids=MISUSED)
def test_names_let_in_do_nothing_else(content, message, layout, tmp_path):
    path = str(write(tmp_path / 'c.pth', content, layout))
    with pytest.raises(UsageError) as error:
        read_checkpoint(path, 'load_from')
    assert f'{path} (from load_from) is not read: it holds more than data, namely ' in str(error.value)
    assert message in str(error.value)
    assert '--trust-checkpoint' in str(error.value)


@pytest.mark.parametrize('content', DAMAGED.values(), ids=DAMAGED)
def test_damaged_pickles(content, tmp_path):
    for layout in LAYOUTS:
        with pytest.raises(UsageError, match='checkpoint cannot be read'):
            read_checkpoint(str(write(tmp_path / 'c.pth', content, layout)))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_random_damage_ends_in_a_message(layout, tmp_path):
    path = tmp_path / 'c.pth'
    content = {key: value for key, value in everything().items() if key != 'types'}
    torch.save(content, path, _use_new_zipfile_serialization=layout == 'zip')
    whole = path.read_bytes()
    # Where the pickle is.
    start = whole.index(b'state_dict') - 20
    end = start + len(pickle.dumps(content, 2))
    draw, failed = random.Random(0), 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(start, min(end, len(whole)))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            read_checkpoint(str(path))
        except UsageError:
            failed += 1
    assert failed > 50


def test_a_name_cannot_write_to_the_terminal(tmp_path):
    path = str(write(tmp_path / 'c.pth', name('\x1b[2Jevil', 'function'), 'zip'))
    with pytest.raises(UsageError, match=r'namely \\x1b\[2Jevil.function, and'):
        read_checkpoint(path)


def test_foreign_zip_files(tmp_path):
    path = str(tmp_path / 'c.zip')
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    with pytest.raises(UsageError, match='none of torch.save'):
        read_checkpoint(path)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', pickle.dumps({}))
    with pytest.raises(UsageError, match='compressed'):
        read_checkpoint(path)
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(UsageError, match=r'more than data, namely __torch__\.'):
        read_checkpoint(path)


def test_weights(tmp_path):
    path = str(tmp_path / 'c.pth')
    torch.save({3: torch.zeros(1)}, path)
    with pytest.raises(UsageError, match='has no state dict: 3 is a Tensor'):
        read_weights(path)
    torch.save({'net': {'a': torch.zeros(1)}, 'step': 5}, path)
    assert read_weights(path) == ({'a': torch.zeros(1)}, {'step': 5})
    torch.save({'a': torch.zeros(1), 'model': io.BytesIO()}, path)
    with pytest.raises(UsageError, match='namely _io.BytesIO'):
        read_weights(path)
    assert read_checkpoint(path, trust=True)['model'].read() == b''


def test_all_is_the_same_whatever_pytorch_is_told(tmp_path, monkeypatch):
    """PyTorch's own switches decide what torch.load does, not what is read here."""
    path = str(tmp_path / 'c.pth')
    torch.save({'a': np.float64(1)}, path)
    for variable in ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        monkeypatch.setenv(variable, '1')
        assert read_checkpoint(path) == {'a': 1.0}
        monkeypatch.delenv(variable)
