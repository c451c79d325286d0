"""The benchmark of decode steps: its figures are there, and both ways compute the same."""

from __future__ import annotations

import json

from benchmarks import steps


def test_a_run_ends_with_its_figures(checkpoint, capsys):
    sizes = ["--positions", "20", "--repeat", "2", "--model", str(checkpoint)]
    steps.main(["--sequences", "1", "3", *sizes])
    *table, last = capsys.readouterr().out.splitlines()
    lines = json.loads(last)["lines"]

    assert len(table) == 1 + len(lines)
    assert [line["sequences"] for line in lines] == [1, 3]
    assert all(line["difference"] < 1e-3 and line["quick_ms"] > 0 < line["plain_ms"] for line in lines)
