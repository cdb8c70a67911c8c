"""Checkpoints that run code: they do where they are trusted, and are refused everywhere else."""

import os

import hostile
import pytest

from mmnorm.errors import UsageError
from mmnorm.files import read_checkpoint, read_weights

pytest.importorskip('mmengine', reason='the attacks go through its classes')

ATTACKS = tuple(hostile.attacks('marker'))


def in_a_fork(function) -> None:
    """What the code of a checkpoint does to this process would stay."""
    process = os.fork()
    if process == 0:
        try:
            function()
        except BaseException:
            pass
        finally:
            os._exit(0)
    os.waitpid(process, 0)


@pytest.mark.parametrize('layout', hostile.LAYOUTS)
@pytest.mark.parametrize('attack', ATTACKS)
def test_nothing_is_run(attack, layout, tmp_path):
    marker = tmp_path / 'marker'
    path = str(hostile.write(tmp_path / 'c.pth', hostile.attacks(marker)[attack], layout))
    for read in (read_checkpoint, read_weights, lambda path: read_checkpoint(path, mmap=True)):
        with pytest.raises(UsageError) as error:
            read(path)
        assert f'{path} is not read: it holds more than data, namely ' in str(error.value)
        assert '--trust-checkpoint' in str(error.value)
    assert not marker.exists()
    # The attack is one.
    in_a_fork(lambda: read_checkpoint(path, trust=True))
    assert marker.exists()
