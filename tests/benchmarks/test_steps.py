"""The benchmark of small passes: its figures are there, and both ways compute the same."""

from __future__ import annotations

import json

import pytest

from benchmarks import steps


@pytest.mark.parametrize("weights", [(), ("--int8",)])
def test_a_run_ends_with_its_figures(checkpoint, capsys, weights):
    sizes = ["--positions", "20", "--repeat", "2", "--model", str(checkpoint), *weights]
    steps.main(["--passes", "1x1", "3x4", *sizes])
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    lines, encoder = result["lines"], result["encoder"]

    assert len(table) == 2 + len(lines) + len(encoder)
    assert [(line["sequences"], line["new"]) for line in lines] == [(1, 1), (3, 4)]
    assert [line["streams"] for line in encoder] == [1, 2, 4, 8]
    for line in [*lines, *encoder]:
        assert line["difference"] < 1e-3
        assert line["quick_ms"] > 0 < line["plain_ms"]


@pytest.mark.parametrize("passes", ["4", "4x", "0x1", "1x-1"])
def test_what_is_no_pass_is_refused(passes, capsys):
    with pytest.raises(SystemExit):
        steps.main(["--passes", passes])
    assert "--passes" in capsys.readouterr().err
