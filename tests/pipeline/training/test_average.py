"""Checkpoints between two: weights by their share, and the rest of the second."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import Gemma3n
from pipeline.training.average import main
from pipeline.training.export import export
from pipeline.training.recipe import template
from tests import reference
from tests.pipeline.training.conftest import RECIPE


@pytest.fixture(scope="module")
def checkpoints(built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("average")
    paths = folder / "first", folder / "second"
    for seed, path in enumerate(paths):
        learner = copy.deepcopy(built.learner)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            reference.scramble(learner)
        export(learner, built.raw, built.tokenizer, template(RECIPE), path)
    return paths


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_each_weight_lies_between_the_two(checkpoints, tmp_path, share):
    first, second = checkpoints
    main([str(first), str(second), "--share", str(share), "--out", str(tmp_path / "made" / "between")])

    between = weights(tmp_path / "made" / "between")
    before, after = weights(first), weights(second)
    assert between.keys() == after.keys()
    for name, value in between.items():
        assert value.dtype == after[name].dtype
        expected = (1 - share) * before[name].double() + share * after[name].double()
        assert torch.allclose(value.double(), expected, rtol=2**-8, atol=1e-6), name


def test_what_comes_out_is_a_model_with_the_files_of_the_second(checkpoints, tmp_path):
    first, second = checkpoints
    main([str(first), str(second), "--share", "0.5", "--out", str(tmp_path)])

    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in second.iterdir()}
    assert (tmp_path / "surtitle.json").read_bytes() == (second / "surtitle.json").read_bytes()
    Gemma3n.from_pretrained(tmp_path)


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_a_share_is_a_part_of_the_whole(checkpoints, tmp_path, capsys, share):
    with pytest.raises(SystemExit):
        main([*map(str, checkpoints), f"--share={share}", "--out", str(tmp_path)])

    assert "between 0 and 1" in capsys.readouterr().err


def test_checkpoints_of_different_shapes_have_nothing_between_them(checkpoints, tmp_path, capsys):
    first, second = checkpoints
    other = tmp_path / "other"
    other.mkdir()
    for path in first.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    raw = json.loads((other / "config.json").read_text())
    raw["text_config"]["rms_norm_eps"] = 1e-5
    (other / "config.json").write_text(json.dumps(raw))
    with pytest.raises(SystemExit):
        main([str(other), str(second), "--share", "0.5", "--out", str(tmp_path / "out")])

    assert "config.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_checkpoint_is_named(checkpoints, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(checkpoints[0]), str(tmp_path / "none"), "--share", "0.5", "--out", str(tmp_path / "out")])

    assert str(tmp_path / "none") in capsys.readouterr().err


def test_neither_of_the_two_is_overwritten(checkpoints, capsys):
    first, second = checkpoints
    kept = (second / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main([str(first), str(second), "--share", "0.5", "--out", str(second)])

    assert "another folder" in capsys.readouterr().err
    assert (second / "model.safetensors").read_bytes() == kept
