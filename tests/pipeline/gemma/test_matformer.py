"""Sub-models: which there are, what they are called, and which write the same keys and values."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import defaultdict
from pathlib import Path

import pytest

from pipeline.config import TextConfig
from pipeline.errors import CheckpointError
from pipeline.gemma.matformer import PRESETS, Mix, check_widths, kept_layers, kv_group, sliced
from tests import reference

E4B = TextConfig.from_dict({})
SMALL = TextConfig.from_dict(
    {
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "intermediate_size": [40, 40, 40, 40, 60, 60],
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "activation_sparsity_pattern": [0.9, 0.9, 0, 0, 0, 0],
    }
)


def test_e2b_is_the_published_configuration():
    widths = PRESETS["e2b"].widths(E4B)

    assert sliced(E4B, widths) == TextConfig.from_dict(
        {"num_hidden_layers": 30, "num_kv_shared_layers": 10, "intermediate_size": 8192}
    )


def test_published_sub_models_form_the_groups_that_their_tables_say():
    """Those that agree in layers 0 to 19, and no others."""
    groups = defaultdict(set)
    for name, mix in PRESETS.items():
        groups[kv_group(E4B, mix.widths(E4B))].add(name)

    assert sorted(map(sorted, (group for group in groups.values() if len(group) > 1))) == sorted(
        map(
            sorted,
            [
                {"e2b", "e2.49-block"},
                {"e1.96", "e2.54"},
                {"e2.73-block", "e2.98"},
                {"e2.98-block", "e3.24-block"},
                {"e3.18", "e3.39"},
                {"e3.59", "e3.79"},
                {"e3.49-block", "e3.79-block"},
            ],
        )
    )


def test_the_page_has_the_presets():
    page = (Path(__file__).parents[3] / "docs" / "matformer.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (\d+) \| (\S+) \|$", page, re.MULTILINE)
    widths = {
        name: tuple(0 if digit == "-" else 2048 * int(digit) for digit in "".join(parts))
        for name, *parts in rows
    }

    assert widths == {name: mix.widths(E4B) for name, mix in PRESETS.items()}


def test_the_whole_is_in_the_group_of_its_widths():
    assert kv_group(SMALL, None) == kv_group(SMALL, SMALL.intermediate_size) == (40, 40, 40, 40)


@pytest.mark.parametrize(
    ("raw", "widths"),
    [
        ({"ffn_widths": 20}, (20,) * 6),
        ({"ffn_widths": [1, 2, 3, 4, 5, 60]}, (1, 2, 3, 4, 5, 60)),
        ({"ffn_widths": [10, 20, 30, 40], "skip_layers": [4, 0]}, (0, 10, 20, 30, 0, 40)),
        ({"ffn_widths": 7, "skip_layers": [5, 0, 1, 3, 4]}, (0, 0, 7, 0, 0, 0)),
    ],
)
def test_a_mix_is_read_from_a_file(tmp_path, raw, widths):
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(raw))

    assert Mix.from_file(path).widths(SMALL) == widths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[3]", "expected an object with ffn_widths"),
        ('{"skip_layers": [3]}', "expected an object with ffn_widths"),
        ('{"ffn_widths": 3, "skip": [3]}', "expected an object with ffn_widths"),
        ('{"ffn_widths": "wide"}', "must be a whole number or a list"),
        ('{"ffn_widths": [1.5]}', "must be a whole number or a list"),
        ('{"ffn_widths": true}', "must be a whole number or a list"),
        ('{"ffn_widths": 3, "skip_layers": 4}', "must be a whole number or a list"),
    ],
)
def test_a_file_with_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "mix.json"
    path.write_text(text)

    with pytest.raises(CheckpointError, match=message):
        Mix.from_file(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"mix\.json: cannot be read"):
        Mix.from_file(tmp_path / "mix.json")


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (Mix((20,) * 5), "5 entries; this model has 6 layers, of which 6 are kept"),
        (Mix((20,) * 6, (5,)), "6 entries; this model has 6 layers, of which 5 are kept"),
        (Mix(41), "layer 0 has 40 units, got a width of 41"),
        (Mix((40, 40, 40, 40, 61, 1)), "layer 4 has 60 units, got a width of 61"),
        (Mix(0), "at least 1"),
        (Mix(-1), "got a width of -1"),
        (Mix(20, (6,)), "layers from 0 to 5, got"),
        (Mix(20, (5, 5)), "different layers from 0 to 5"),
        (Mix(20, (2,)), r"layers \[2\] cannot be left out"),
        (Mix(20, (3, 4)), r"layers \[3\] cannot be left out"),
        (Mix(20, tuple(range(6))), "at least one layer"),
        (PRESETS["e2b"], "skip_layers must be different layers from 0 to 5"),
        (PRESETS["e2.54"], "35 entries; this model has 6 layers"),
    ],
)
def test_what_the_model_does_not_have_is_refused(mix, message):
    with pytest.raises(CheckpointError, match=message):
        mix.widths(SMALL)


def test_a_sub_model_has_a_width_for_each_layer():
    with pytest.raises(CheckpointError, match="a width for each of 6 layers, got 2"):
        check_widths(SMALL, (1, 1))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_accepted_is_a_configuration_whose_layers_share_as_before(seed):
    """Whatever is left out: what is refused would have a layer without keys and values, and only that."""
    rng = random.Random(seed)
    config = TextConfig.from_dict(reference.random_text_config(rng))
    layers = range(config.num_hidden_layers)
    for skipped in itertools.chain.from_iterable(itertools.combinations(layers, n) for n in layers):
        kept = [layer for layer in layers if layer not in skipped]
        orphaned = any(config.kv_source(layer) in skipped for layer in kept)
        try:
            widths = Mix(16, skipped).widths(config)
        except CheckpointError:
            assert orphaned
            continue
        own = sliced(config, widths)
        assert not orphaned
        assert kept_layers(widths) == kept
        assert [kept[own.kv_source(at)] for at in range(len(kept))] == [config.kv_source(n) for n in kept]
