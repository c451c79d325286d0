"""The benchmark of the sparse feed-forward: its figures are there, and the rule is the layer's."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import ffn


def test_a_run_ends_with_its_figures(capsys):
    ffn.main(["--hidden-width", "8:32", "12:40", "--repeat", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    lines = result["lines"]

    assert len(table) == 1 + len(lines) == 1 + 2 * len(ffn.SPARSITIES) * len(ffn.POSITIONS) * 2
    assert {line["positions"] for line in lines if line["rule"] == "sparse" and line["sparsity"] == 0.5} == {
        positions for positions in ffn.POSITIONS if positions <= ffn.layer(8, 32, 0.5).most_gathered
    }
    assert 0 <= result["wrong"] <= len(lines)
    assert torch.get_num_threads() == 1  # as the tests have it


def test_the_rule_is_wrong_where_the_other_way_is_clearly_faster():
    line = ffn.Line(8, 32, 0.5, 1, 1, sparse=1.0, dense=0.8, rule="sparse")

    assert line.is_wrong
    assert not ffn.Line(8, 32, 0.5, 1, 1, sparse=1.0, dense=0.95, rule="sparse").is_wrong
    assert ffn.Line(8, 32, 0.5, 1, 1, sparse=0.8, dense=1.0, rule="dense").is_wrong


@pytest.mark.parametrize("arguments", [["--repeat", "0"], ["--hidden-width", "8"], ["--hidden-width", "8:0"]])
def test_nonsense_is_refused(capsys, arguments):
    with pytest.raises(SystemExit):
        ffn.main(arguments)
    assert "at least 1" in capsys.readouterr().err
