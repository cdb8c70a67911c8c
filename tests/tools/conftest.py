import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from processes import run_script

from mmnorm.errors import run as run_main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """The built-in scenes in every layout; a folder."""
    out = tmp_path_factory.mktemp('digits')
    command = [sys.executable, 'tools/make_digits.py', 'all', '--out', str(out), '--train', '8', '--val', '2']
    subprocess.run([*command, '--size', '64', '64'], check=True, cwd=ROOT)
    return out


@pytest.fixture
def tool():
    """Run a script of tools/ in a process of its own; returns its output in one text."""

    def run(name, *arguments, status=0):
        environment = {**os.environ, 'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
        if name.endswith('.sh'):
            command = [f'tools/{name}', *map(str, arguments)]
            done = subprocess.run(
                command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, text=True, check=False, env=environment
            )
            found, output = done.returncode, done.stdout
        else:
            found, output = run_script(f'{ROOT}/tools/{name}', arguments, ROOT, environment)
        assert found == status, output[-4000:]
        return output

    return run


@pytest.fixture
def refuse(capsys, monkeypatch):
    """Run a tool's main in this process; it has to refuse. Returns what it says."""

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / f'tools/{name}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        # A logger that an earlier test in this process has made may write to what pytest has closed since.
        monkeypatch.setattr(logging, 'raiseExceptions', False)
        with pytest.raises(SystemExit) as stopped:
            run_main(module.main)
        assert stopped.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith('error: ')
        assert 'Traceback' not in message
        return message

    return run
