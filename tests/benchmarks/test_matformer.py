"""The benchmark of sub-models: what it compares, that its search finds what there is, and its figures."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
import torch

from benchmarks import elastic, matformer, narrowing, quality
from benchmarks.matformer import Heard
from pipeline.config import TextConfig
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.matformer import Mix
from pipeline.model import Gemma3n
from tests import reference


def heard(model: Gemma3n, count: int) -> list[Heard]:
    """Noise in place of speech, in both languages."""
    rng = random.Random(0)
    items = []
    for (spanish, english), (source, target) in zip(
        quality.held_out_pairs()[:count], itertools.cycle(matformer.DIRECTIONS), strict=False
    ):
        said, meant = (spanish, english) if source == "es" else (english, spanish)
        clip = quality.Clip(reference.waveform(rng, rng.uniform(0.5, 2.0)), said, meant)
        tokens = torch.from_numpy(quality.encode(model, clip.waveform))
        items.append(Heard(clip, source, target, tokens))
    return items


@torch.no_grad()
def test_the_loss_is_that_of_the_answers_one_by_one(babbler, monkeypatch):
    """In batches padded to one length or alone, in a sub-model or the whole."""
    monkeypatch.setattr(matformer, "BATCH", 3)
    items = heard(babbler, 5)
    half = narrowing.uniform(babbler.config.text, 0.5)
    (end,) = babbler.tokenizer.special("<end_of_turn>")
    for widths in (babbler.config.text.intermediate_size, half):
        losses = []
        for item in items:
            before = babbler.prompt.before_audio(item.source, item.target)
            soft = [babbler.config.audio_token_id] * len(item.tokens)
            given = [*before, *soft, *babbler.prompt.after_audio()]
            said, meant = (
                babbler.prompt.words(text) for text in (item.clip.transcript, item.clip.translation)
            )
            answer = [*said, *babbler.prompt.translation_label(item.target), *meant, end]
            logits = babbler.logits([*given, *answer], item.tokens, ffn_widths=widths)[len(given) - 1 : -1]
            losses += (-logits.log_softmax(-1)[range(len(answer)), answer]).tolist()
        batches = matformer.lessons(babbler, items)

        assert len(batches) == 2
        assert matformer.cross_entropy(babbler, batches, widths) == pytest.approx(np.mean(losses), abs=1e-4)


def test_clips_that_are_decoded_beside_each_other_say_what_they_say_alone(babbler):
    items = heard(babbler, 4)
    widths = narrowing.uniform(babbler.config.text, 0.5)
    alone = [matformer.answers(babbler, [item], widths)[0] for item in items]

    assert matformer.answers(babbler, items, widths) == alone
    whole = [
        quality.answer(babbler, item.tokens.numpy(), item.source, item.target, beams=1) for item in items
    ]
    assert matformer.answers(babbler, items, babbler.config.text.intermediate_size) == whole
    assert whole != alone


def test_parameters_are_those_of_a_slice():
    config = TextConfig.from_dict(reference.random_text_config(random.Random(3)))
    widths = Mix(16).widths(config)
    decoder = Decoder(config)
    tables = decoder.embed_tokens.weight.numel() + decoder.embed_tokens_per_layer.weight.numel()
    whole = sum(parameter.numel() for parameter in decoder.parameters()) - tables
    less = 3 * config.hidden_size * (sum(config.intermediate_size) - 16 * config.num_hidden_layers)

    assert matformer.core_parameters(config, config.intermediate_size) == whole
    assert matformer.core_parameters(config, widths) == whole - less


@pytest.fixture
def brief(monkeypatch):
    """As little as can be measured."""
    for module, name, value in (
        (elastic, "STEPS", 2),
        (matformer, "REPEAT", 1),
        (matformer, "GPU_REPEAT", 1),
        (narrowing, "SHARES", (0.25, 0.5)),
        (narrowing, "EXCHANGES", 2),
    ):
        monkeypatch.setattr(module, name, value)


def test_a_run_ends_with_its_figures(capsys, monkeypatch, tmp_path, checkpoint, brief):
    monkeypatch.setattr(matformer, "hear", lambda model, pairs: heard(model, 2 * len(pairs)))
    plot = tmp_path / "plot.png"
    matformer.main(["--sentences", "1", "--model", str(checkpoint), "--plot", str(plot)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    points = {point["name"]: point for point in result["points"]}

    assert {"whole", "half", *(f"search {size:.1%}" for size in matformer.SIZES)} <= points.keys()
    for point in points.values():
        assert point["wer"] >= 0
        assert 0 <= point["bleu"] <= 100
        assert point["tokens_per_s"] > 0
        assert points["whole"]["params"] >= point["params"] > 0
    for compared in result["search"]:
        search, even = (points[f"{kind} {compared['size']:.1%}"] for kind in ("search", "uniform"))
        assert search["params"] <= even["params"]
        assert search["ffn_widths"] == compared["ffn_widths"]
    assert result["switch"]["prefill"] > 0
    assert result["drafting"].keys() == {"none", "previous", "itself", "itself_free", "step_ratio"}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_drafts_of_any_kind_change_nothing(babbler, brief):
    """It raises if one does."""
    narrow = elastic.narrow_above(babbler.config.text, narrowing.uniform(babbler.config.text, 0.25))
    tokens = [item.tokens for item in heard(babbler, 4)]
    cost = elastic.drafting(babbler, tokens, "es", "en", narrow)

    assert cost.itself > cost.itself_free > 0


def test_published_sub_models_are_timed(babbler, monkeypatch, brief):
    """Here of a model with little in it."""
    widths = babbler.config.text.intermediate_size
    names = {"e2b": Mix(4), "e3.24-block": Mix((*widths[:-1], 4))}
    monkeypatch.setattr(matformer, "PRESETS", names)
    result = matformer.measure_published(babbler)

    assert [point["name"] for point in result["points"]] == ["e4b", *names]
    assert all(point["wer"] is None and point["tokens_per_s"] > 0 for point in result["points"])
    assert "e4b" in matformer.table(result)


@pytest.mark.parametrize("sentences", ["0", "251"])
def test_sentences_must_be_there(capsys, sentences):
    with pytest.raises(SystemExit):
        matformer.main(["--sentences", sentences])
    assert "from 1 to 250" in capsys.readouterr().err
