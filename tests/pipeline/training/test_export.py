"""Checkpoints: what was learned is what the service, and transformers, compute with."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline import Gemma3n
from pipeline.audio.mel import log_mel
from pipeline.config import ModelConfig
from pipeline.training import vocabulary
from pipeline.training.__main__ import build
from pipeline.training.batches import soft_tokens
from pipeline.training.export import export, resume
from pipeline.training.learner import DeviceBatch, Learner
from pipeline.training.recipe import template
from tests import reference
from tests.pipeline.training.conftest import RECIPE


@pytest.fixture(scope="module")
def learner(built) -> Learner:
    """The tiny model with weights all of its own, as bfloat16 can hold them."""
    learner = copy.deepcopy(built.learner)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        reference.scramble(learner)
    return learner.bfloat16().float().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(built, learner: Learner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "made" / "if need be"
    export(learner, built.raw, built.tokenizer, template(RECIPE), folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Gemma3n:
    return Gemma3n.from_pretrained(folder)


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """1.7 s of noise and the silence that ends an utterance."""
    random = np.random.default_rng(3)
    return np.concatenate([random.normal(0, 0.1, 27_200), np.zeros(4_800)]).astype(np.float32)


def question(prompt, audio_id: int, count: int) -> list[int]:
    return [*prompt.before_audio("es", "en"), *[audio_id] * count, *prompt.after_audio()]


@torch.no_grad()
def loss_of(learner: Learner, ids: list[int], answer: int, wave: np.ndarray) -> torch.Tensor:
    """What the learner says that the last ``answer`` tokens of ``ids`` cost."""
    positions = torch.arange(len(ids) - 1 - answer, len(ids) - 1)
    tokens = torch.tensor([ids])
    batch = DeviceBatch(
        tokens,
        positions,
        tokens[0, positions + 1],
        torch.tensor([len(wave) // 640]),
        torch.tensor([1, 2]),
        torch.tensor([2]),
    )
    return learner(torch.from_numpy(log_mel(wave))[None], batch, None)[0]


def test_the_learner_and_the_exported_model_agree(built, learner, model, wave):
    """Loss of an answer after speech: the very weights and prompt, by the learner and by the service."""
    count = soft_tokens(27_200)
    answer = built.prompt.answer("Buenos días.", "en", "Good morning.")
    asked = question(built.prompt, model.config.audio_token_id, count)
    audio = model.encode_audio(wave)[:count]
    logits = model.logits([*asked, *answer], audio)[len(asked) - 1 : -1]
    expected = F.cross_entropy(logits, torch.tensor(answer), label_smoothing=learner.smoothing)
    learned = loss_of(learner, [*asked, *answer], len(answer), wave)

    torch.testing.assert_close(learned, expected, atol=1e-4, rtol=1e-4)
    # The audio has its part in it.
    deaf = loss_of(learner, [*asked, *answer], len(answer), np.zeros_like(wave))
    assert abs(deaf - learned) > 1e-3


@torch.no_grad()
def test_logits_differ_by_the_rounding_of_the_weights(built, tmp_path):
    """A learner in float32 loses no more than bfloat16 cannot hold."""
    export(built.learner, built.raw, built.tokenizer, template(RECIPE), tmp_path)
    model = Gemma3n.from_pretrained(tmp_path)
    ids = built.prompt.answer("El gato no duerme.", "en", "The cat does not sleep.")
    decoder = built.learner.language_model
    tokens = torch.tensor([ids])
    exact = decoder.logits(decoder.hidden(tokens, decoder.embed(tokens)))[0]

    assert (model.logits(ids) - exact).square().mean().sqrt() < 0.01 * exact.std()


def test_transformers_reads_the_checkpoint(folder, model, wave):
    theirs = reference.load(folder)
    expected = reference.soft_tokens(theirs, wave)
    ids = [5, 300, 17, 450, 120, 8]

    torch.testing.assert_close(model.encode_audio(wave)[: len(expected)], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.logits(ids), reference.logits(theirs, ids), atol=1e-4, rtol=0)
    assert set(theirs.generation_config.eos_token_id) == set(model.config.eos_token_ids)


def test_transformers_reads_the_tokenizer(folder, built, model):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "¿Dónde está el gato? It's 10 o'clock."

    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer.encode(text, add_special_tokens=False) == model.tokenizer.encode(text)
    assert tokenizer.eos_token_id == built.tokenizer.token_to_id("<eos>")
    assert tokenizer.decode(model.tokenizer.encode(text)) == text


def test_the_prompt_of_training_is_that_of_the_service(built, model):
    for source, target in (("es", "en"), ("en", "es"), ("fr", "en"), ("en", "fr")):
        assert model.prompt.before_audio(source, target) == built.prompt.before_audio(source, target)
    assert model.prompt.takes_context
    told = model.prompt.context("", ["Ayer vino Juana."])
    assert model.prompt.before_audio("fr", "en", told) == built.prompt.before_audio("fr", "en", told)
    assert model.languages == ("es", "fr", "en")


def test_a_half_width_model_can_be_read_out(folder, model):
    widths = [width // 2 for width in model.config.text.intermediate_size]
    half = Gemma3n.from_pretrained(folder, ffn_widths=widths)

    assert half.config.text.intermediate_size == tuple(widths)
    assert half.logits([5, 6, 7]).isfinite().all()


def test_training_resumes_where_it_was_exported(built, learner, folder):
    with torch.random.fork_rng():
        again = Learner(ModelConfig.from_dict(built.raw), letters=50)
    characters = again.characters.weight.detach().clone()
    resume(again, folder, built.tokenizer)
    own = dict(again.named_parameters())

    for name, parameter in learner.named_parameters():
        if not name.startswith("characters."):
            torch.testing.assert_close(own[name].detach(), parameter, atol=0, rtol=0)
            assert own[name].requires_grad
    torch.testing.assert_close(again.characters.weight.detach(), characters)


def test_training_goes_on_with_another_vocabulary(built, learner, folder):
    """A token that is new starts as the mean of those that spelled it; all else stays."""
    recipe = dataclasses.replace(RECIPE, text_tokens=300)
    tokenizer = vocabulary.train([" los acantilados del señor y el aguacero"] * 60, recipe.text_tokens)
    with torch.random.fork_rng():
        again, _, _ = build(recipe, tokenizer)
    resume(again, folder, tokenizer)

    old, tokens = built.tokenizer, tokenizer.get_vocab(with_added_tokens=True)
    new = [token for token in tokens if old.token_to_id(token) is None]
    assert new
    for table in ("embed_tokens", "embed_tokens_per_layer"):
        had, has = (getattr(one.language_model, table).weight.detach() for one in (learner, again))
        for token in (*new, "<bos>", "<0x41>", "\n"):
            if tokens[token] < len(has):
                spelled = (
                    old.encode(token, add_special_tokens=False).ids
                    if token in new
                    else [old.token_to_id(token)]
                )
                torch.testing.assert_close(has[tokens[token]], had[spelled].mean(0), atol=0, rtol=0)
    torch.testing.assert_close(
        again.language_model.norm.weight.detach(), learner.language_model.norm.weight, atol=0, rtol=0
    )


def test_a_checkpoint_of_another_shape_is_refused(built, folder):
    raw = copy.deepcopy(built.raw)
    raw["text_config"]["laurel_rank"] //= 2
    with torch.random.fork_rng():
        other = Learner(ModelConfig.from_dict(raw), letters=50)
    with pytest.raises(RuntimeError, match="size mismatch"):
        resume(other, folder, built.tokenizer)


def test_exporting_again_replaces_the_files(built, learner, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    export(learner, built.raw, built.tokenizer, template(RECIPE), folder)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert json.loads(before["config.json"]) == built.raw
