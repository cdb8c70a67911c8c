"""Files are there entirely or not at all."""

import os

import pytest

from mmnorm.files import write_atomically


def test_rights_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / 'a', lambda file: file.write(b'whole'))
    finally:
        os.umask(before)
    assert (tmp_path / 'a').read_bytes() == b'whole'
    assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize('error', [OSError('No space left on device'), KeyboardInterrupt()])
def test_interrupted(tmp_path, error):
    (tmp_path / 'a').write_text('mine')

    def write(file):
        file.write(b'half')
        raise error

    with pytest.raises(type(error)):
        write_atomically(tmp_path / 'a', write)
    assert (tmp_path / 'a').read_text() == 'mine'
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    (tmp_path / 'a.part').write_text('half of something longer')
    write_atomically(tmp_path / 'a', lambda file: file.write(b'whole'))
    assert [path.name for path in tmp_path.iterdir()] == ['a']
    assert (tmp_path / 'a').read_text() == 'whole'
