"""The demo, cut short: every step of it runs, and it shows what it promises."""

import re


def test_demo(tool, tmp_path):
    output = tool('demo.py', '--out', tmp_path, '--iterations', '2', '--scenes', '16')
    for norm in ('EN', 'BN'):
        assert re.search(rf'^{norm} +\d+ s +\d+\.\d\d +\d+\.\d\d$', output, re.MULTILINE), output
    assert (tmp_path / 'predictions.png').stat().st_size > 10_000
