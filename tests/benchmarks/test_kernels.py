"""What the compiler says of the Triton kernels, as a table."""

import os

import kernels
import pytest

pytest.importorskip('triton', minversion='3.4')


@pytest.mark.skipif(os.environ.get('TRITON_INTERPRET') == '1', reason='nothing is compiled there')
def test_a_row_for_each_kernel(monkeypatch, capsys, tmp_path):
    import triton

    if 'nvidia' not in triton.backends.backends:
        pytest.skip('this Triton has no compiler for NVIDIA GPUs')
    monkeypatch.setattr(kernels, 'VARIANTS', {name: kernels.VARIANTS[name] for name in ('', 'sum, relu')})
    monkeypatch.setattr(kernels, 'LAYERS', {'SN': kernels.LAYERS['SN']})
    options = ['--capability', '80', '--dtype', 'float16', '--memory-format', 'channels_last', '--out', str(tmp_path)]
    assert kernels.main(options) == 0
    assert 'SN with sum, relu' in capsys.readouterr().out
    lines = (tmp_path / 'kernels.csv').read_text().splitlines()
    assert len(lines) == 1 + 10 + 2
    assert all('spilled' in lines[0] and ',0,' in line for line in lines[1:])


def test_refused(capsys):
    with pytest.raises(SystemExit):
        kernels.parse_arguments(['--capability', '70'])
    assert 'invalid choice: 70' in capsys.readouterr().err
