import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    """Run a script of tools/ as a user would; returns the finished process, its output in one text."""

    def run(name, *arguments, status=0):
        command = [f'tools/{name}'] if name.endswith('.sh') else [sys.executable, f'tools/{name}']
        path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
        done = subprocess.run(
            [*command, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, 'PATH': path},
        )
        assert done.returncode == status, done.stdout[-4000:]
        return done.stdout

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
