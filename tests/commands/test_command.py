"""The command ``mmnorm``: what it lists, what it starts, what it says where something is missing."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmnorm
from mmnorm.cli import processes
from mmnorm_command import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def start(*words, program=('-m', 'mmnorm'), status=0, folder=ROOT, without=()):
    """The command in a process of its own, where modules may be missing; what it prints."""
    code = [*program]
    if without:
        missing = f'sys.modules.update(dict.fromkeys({without!r}))'
        code = ['-c', f'import sys; {missing}; from mmnorm_command import main; main()']
    done = subprocess.run(
        [sys.executable, *code, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=processes.environment(),
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_help_names_every_command_in_a_line_and_imports_no_torch():
    output = start('--help', without=('torch', 'mmnorm'))
    for name, text in COMMANDS.items():
        assert re.search(rf'^  {name} +{re.escape(text)}$', output, re.MULTILINE)
    assert max(map(len, output.splitlines())) <= 120


def test_there_is_a_file_for_each_command_and_a_command_for_each_file():
    files = {path.stem for path in (ROOT / 'mmnorm/commands').glob('*.py')} - {'__init__'}
    assert files == set(COMMANDS)
    assert "'mmnorm=mmnorm_command:main'" in (ROOT / 'setup.py').read_text()


@pytest.mark.parametrize('name', COMMANDS)
def test_each_command_has_help(name, monkeypatch, capsys):
    module = importlib.import_module(f'mmnorm.commands.{name}')
    monkeypatch.setattr(sys, 'argv', [f'mmnorm {name}', '--help'])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: mmnorm {name} ')


def test_scripts_are_the_commands():
    """Each script of tools/ hands over to the package, but for the demo."""
    scripts = {path.name: path.read_text() for path in (ROOT / 'tools').glob('*.py') if path.name != 'demo.py'}
    started = {
        re.search(r'^from mmnorm\.commands\.(\w+) import main$', text, re.MULTILINE)[1] for text in scripts.values()
    }
    assert started == set(COMMANDS) - {'configs', 'statistics'}


def test_version():
    assert start('--version').strip() == f'mmnorm {mmnorm.__version__}'


def test_nothing_to_do():
    assert 'commands:' in start(status=2, without=('torch',))


@pytest.mark.parametrize(
    ('words', 'message'),
    [(['trian'], "no command 'trian'; did you mean train?"), (['x'], 'expected one of train, test')],
)
def test_unknown_command(words, message):
    assert message in start(*words, status=2, without=('torch',))


@pytest.mark.parametrize(
    ('words', 'without', 'message'),
    [
        (
            ['train', 'x.py'],
            ('mmengine',),
            "needs mmengine, which is not installed: OpenMMLab: pip install 'mmnorm[onedl]'",
        ),
        (['convert', 'a', 'b', '--to', 'BN'], ('torch',), 'needs torch, which is not installed: pip install torch'),
    ],
)
def test_what_is_not_installed(words, without, message):
    output = start(*words, status=2, without=without)
    assert output.startswith(f'error: mmnorm {words[0]} {message}')
    assert 'Traceback' not in output


def test_refusals_are_one_message(tmp_path):
    output = start('train', 'none.py', status=2, folder=tmp_path)
    assert output.startswith(f'error: config not found: {tmp_path}/none.py')


@pytest.mark.parametrize('gpus', [0, -2])
def test_number_of_processes(gpus, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['mmnorm', 'train', 'x.py', '--gpus', str(gpus)])
    with pytest.raises(SystemExit):
        importlib.import_module('mmnorm_command').main()
    assert f'--gpus {gpus}: expected a number from 1 to' in capsys.readouterr().err


def test_more_gpus_than_there_are(monkeypatch, capsys):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setattr(sys, 'argv', ['mmnorm', 'train', 'x.py', '--gpus', '3'])
    with pytest.raises(SystemExit):
        importlib.import_module('mmnorm_command').main()
    assert '--gpus 3: expected a number from 1 to 2' in capsys.readouterr().err


def test_nothing_reads_on():
    """As with ``mmnorm ... | head``, whether it comes up in between or at the end."""
    for lines in (1, 100_000):
        script = f'from mmnorm.errors import run; run(lambda: print("line\\n" * {lines}))'
        process = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        assert process.stderr.read() == b''
        assert process.wait() == 1
