"""What can be told of macOS and Windows without having them: what they lack is taken away, one thing after another."""

import ast
import io
import multiprocessing
import os
import pickle
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import mmnorm
from mmnorm.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([ROOT / 'mmnorm_command.py', *(ROOT / 'mmnorm').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')])

# Of what only Linux or POSIX has, all that can be taken from a running Python. PyTorch comes first, and platformdirs
# where it is installed: they are built for, or ask for, each system, and do without by themselves.
ELSEWHERE = """
import io, os, signal, sys, warnings
import torch
try:
    import platformdirs
except ImportError:
    pass
for name in ('fork', 'forkpty', 'sched_getaffinity', 'getuid', 'geteuid', 'uname'):
    delattr(os, name)
for name in ('SIGPIPE', 'SIGKILL', 'SIGHUP'):
    delattr(signal, name)
def symlink(*args, **kwargs):
    raise OSError('[WinError 1314] A required privilege is not held by the client')
os.symlink = symlink
for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'triton', 'mmnorm._C'):
    sys.modules[name] = None
"""


def elsewhere(code, folder):
    """The output of ``code`` in a Python without all that; its files are not in UTF-8 unless it says so."""
    plain = {'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'LC_ALL': 'C', 'PYTHONIOENCODING': 'cp1252'}
    done = subprocess.run(
        [sys.executable, '-c', ELSEWHERE + code],
        cwd=folder,
        capture_output=True,
        encoding='cp1252',
        check=False,
        env={**os.environ, **plain, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_layers_work_and_one_line_says_what_is_slower(tmp_path):
    code = """
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    import mmnorm
    for norm in (mmnorm.SwitchableNorm2d, mmnorm.ExemplarNorm2d, mmnorm.InstanceMetaNorm2d):
        layer, x = norm(32), torch.randn(2, 32, 4, 4, requires_grad=True)
        layer(x).square().sum().backward()
        assert x.grad.isfinite().all()
        layer.eval()(x)
print(*[str(one.message) for one in said if 'mmnorm' in str(one.message)], sep='\\n')
print(mmnorm.backend_for(x))
"""
    slower, backend = elsewhere(code, tmp_path).splitlines()
    assert 'mmnorm._C is not compiled, so layers ' in slower
    assert 'on a CPU' in slower
    assert backend == ('portable' if (ROOT / 'mmnorm/_loops.so').is_file() else 'composed')


def test_commands_run(tmp_path):
    """Those that start no training; in a folder whose name has what names have there."""
    pytest.importorskip('mmengine')
    for module in ('sklearn', 'cv2', 'pycocotools', 'yaml'):
        pytest.importorskip(module)
    folder = tmp_path / 'New folder (2)\\mine'
    folder.mkdir()
    code = """
import mmnorm_command
digits = 'digits coco --train 2 --val 1 --size 48 48 --out'
for line in ('configs', 'experiments list', 'experiments show en/table7/pi-1', digits + ' mine'):
    sys.argv = ['mmnorm', *line.split()]
    try:
        mmnorm_command.main()
    except SystemExit as stopped:
        assert not stopped.code, stopped.code
"""
    output = elsewhere(code, folder)
    assert 'mmnorm::deeplab_en_r50.py' in output
    assert '2KC + C + ?(K)' in output, 'a letter that their consoles may have, and files may not'
    assert (folder / 'mine/coco/annotations/instances_val2017.json').is_file()


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_files_name_their_encoding(path):
    """On Windows the default is not UTF-8."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, 'attr', getattr(node.func, 'id', None))
        if name not in ('open', 'read_text', 'write_text') or any(k.arg == 'encoding' for k in node.keywords):
            continue
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        opens_another = (
            name == 'open'
            and isinstance(node.func, ast.Attribute)
            and not re.search(r'\b(path|file|log|out|temporary)\b', ast.unparse(node.func.value))
        )
        assert opens_another or any(re.fullmatch('[rwax]?b[+]?|[rwax][+]?b', mode) for mode in modes), (
            f'{path.name}:{node.lineno}: {ast.unparse(node)} without encoding='
        )


def test_names_of_files_are_possible_on_windows():
    reserved = re.compile(r'(con|prn|aux|nul|com\d|lpt\d)(\..*)?', re.IGNORECASE)
    folders = ('mmnorm', 'configs', 'tools', 'docs', 'tests', 'benchmarks', 'requirements')
    names = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob('*')]
    names = [name for name in names if '__pycache__' not in name]
    pytest.importorskip('yaml')
    from mmnorm.experiments.catalogue import catalogue

    # Which are folders of runs.
    names += [row.id for row in catalogue().select()]
    for name in names:
        for part in name.split('/'):
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part), name
            assert not reserved.fullmatch(part), name
    assert [name for name, times in Counter(name.lower() for name in names).items() if times > 1] == []
    # Of 260 characters that a path may have, there are 140 for the folder it lies in.
    assert max(map(len, names)) < 120


def _forward(pickled, queue):
    layer, x = pickle.loads(pickled)
    queue.put(layer(x).detach().numpy())


def test_layers_travel_to_a_spawned_process():
    """As macOS and Windows start all processes, those of a DataLoader for one."""
    layer, x = mmnorm.ExemplarNorm2d(4), torch.randn(2, 4, 3, 3)
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=_forward, args=(pickle.dumps((layer, x)), queue))
    process.start()
    try:
        torch.testing.assert_close(torch.from_numpy(queue.get(timeout=120)), layer(x).detach())
    finally:
        process.join(timeout=20)
        process.kill()


def test_a_file_in_use_stays_whole(tmp_path, monkeypatch):
    """Windows neither replaces nor removes what another process has open."""
    path = tmp_path / 'a'
    path.write_bytes(b'before')

    def replace(source, target):
        raise PermissionError(13, 'The process cannot access the file because it is being used by another process')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', replace)
        with pytest.raises(PermissionError):
            write_atomically(path, lambda file: file.write(b'after'))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {'a': b'before'}


def test_a_checkpoint_in_use_is_removed_later(tmp_path, monkeypatch):
    pytest.importorskip('mmengine')
    from mmnorm.engine.atomic_files import AtomicBackend

    backend = AtomicBackend()
    monkeypatch.setattr(AtomicBackend, '_outdated', [])
    for name in ('1', '2'):
        backend.put(b'weights', tmp_path / name)
    backend.remove(tmp_path / '1')

    def remove(path):
        raise PermissionError(13, 'in use')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'remove', remove)
        backend.put(b'weights', tmp_path / '3')
    assert {p.name for p in tmp_path.iterdir()} == {'1', '2', '3'}
    backend.put(b'weights', tmp_path / '4')
    assert {p.name for p in tmp_path.iterdir()} == {'2', '3', '4'}


@pytest.fixture
def setup_py(monkeypatch):
    """setup.py as it is on a system: what it passes to setup(), and its names."""
    from torch.utils import cpp_extension  # noqa: F401  before the system is another

    def run(platform):
        given = {}
        with monkeypatch.context() as patch:
            patch.chdir(ROOT)
            patch.setattr('setuptools.setup', lambda **kwargs: given.update(kwargs))
            patch.setattr(sys, 'platform', platform)
            return given, runpy.run_path('setup.py')

    return run


@pytest.mark.parametrize(('platform', 'openmp'), [('linux', True), ('darwin', False), ('win32', False)])
def test_loops_are_compiled_without_openmp_where_compilers_have_none(setup_py, platform, openmp):
    given, _ = setup_py(platform)
    assert given['ext_modules']
    # -fopenmp-simd is about vectors and takes no library.
    assert any('-fopenmp' in extension.extra_compile_args for extension in given['ext_modules']) == openmp
    assert all(extension.optional for extension in given['ext_modules'])


def test_an_editable_installation_does_without_links(setup_py, monkeypatch, tmp_path, capsys):
    def symlink(*args, **kwargs):
        raise OSError('[WinError 1314] A required privilege is not held by the client')

    monkeypatch.setattr(os, 'symlink', symlink)
    _, names = setup_py(sys.platform)
    names['BuildWithConfigs'].link(tmp_path / 'configs')
    assert 'openmim will not find mmnorm: [WinError 1314]' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_the_build_goes_on(tmp_path):
    missing = str(tmp_path / 'missing')
    done = subprocess.run(
        [sys.executable, 'setup.py', 'build_ext', '--build-lib', tmp_path / 'lib', '--build-temp', tmp_path / 'temp'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'CC': missing, 'CXX': missing},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = 'mmnorm._C and mmnorm/_loops.so are not compiled, so layers take '
    assert len(re.findall(f'^{re.escape(said)}', done.stderr, re.MULTILINE)) == 1, done.stderr[-3000:]
    assert not list(tmp_path.rglob('*.so'))


def test_several_processes_start_without_exec(monkeypatch):
    """On Windows exec ends the command before its work is done."""
    from mmnorm.cli import processes

    calls = []
    monkeypatch.setattr(sys, 'platform', 'win32')
    monkeypatch.setattr(sys, 'argv', ['mmnorm train', 'my config.py', '--gpus', '2'])
    monkeypatch.setattr(processes.subprocess, 'call', lambda words, env: calls.append(words) or 3)
    monkeypatch.setattr(os, 'execve', lambda *args: pytest.fail('exec'))
    arguments = type('Arguments', (), dict(gpus=2, launcher='none'))
    with pytest.raises(SystemExit) as stopped:
        processes.run_on_gpus('train', arguments)
    assert stopped.value.code == 3
    assert 'my config.py' in calls[0]


def test_logs_are_read_whatever_is_in_them(tmp_path, capsys, monkeypatch):
    """What a failed step wrote is shown, also if it is in the encoding of a console."""
    from mmnorm.cli import processes

    def execute(words, log):
        log.write_bytes('Größe'.encode('cp1252'))
        return 1

    monkeypatch.setattr(processes, 'execute', execute)
    with pytest.raises(SystemExit, match='the whole log is'):
        processes.run_step(tmp_path / 'log', 'train')
    assert 'Gr' in capsys.readouterr().err
    assert io.TextIOWrapper(io.BytesIO(), encoding=processes.environment()['PYTHONIOENCODING']).encoding == 'utf-8'
