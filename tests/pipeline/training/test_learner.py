"""The two losses: what they are by their formulas, and which parts of the model they teach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.training.batches import Batch
from pipeline.training.learner import DeviceBatch, Learner
from pipeline.training.recipe import TINY
from tests.pipeline.training.conftest import CPU, batcher_of, some_batch

TEXT, SPEECH = 0, 1


@pytest.fixture(scope="module")
def text(built, pairs, chunks) -> tuple[Tensor, Batch]:
    return some_batch(batcher_of(built, pairs), chunks[0], TEXT)


@pytest.fixture(scope="module")
def speech(built, pairs, chunks) -> tuple[Tensor, Batch]:
    return some_batch(batcher_of(built, pairs), chunks[0], SPEECH)


def ctc(log_probabilities: Tensor, characters: Sequence[int]) -> Tensor:
    """Negative logarithm of the probability of all paths that spell ``characters`` (Graves 2006, eq. 6)."""
    states = [0] + [state for character in characters for state in (character, 0)]
    never = torch.tensor(-math.inf, dtype=torch.float64)
    forward = [log_probabilities[0][state] if at < 2 else never for at, state in enumerate(states)]
    for frame in log_probabilities[1:]:
        before = forward
        forward = []
        for at, state in enumerate(states):
            skips = at > 1 and state not in (0, states[at - 2])
            ways = torch.stack(before[max(at - (2 if skips else 1), 0) : at + 1])
            forward.append(frame[state] + torch.logsumexp(ways, 0))
    return -torch.logsumexp(torch.stack(forward[-2:]), 0)


def test_spelling_is_the_probability_of_all_paths(built):
    """Targets with doubled characters, a length of its own for each example, and one of nothing."""
    learner = built.learner
    random = torch.Generator().manual_seed(2)
    frames = torch.randn(3, 12, learner.config.audio.hidden_size, generator=random)
    targets, lengths = [[3, 3, 7], [], [5, 1, 5, 5]], [9, 12, 40]
    batch: Any = DeviceBatch(
        *[torch.zeros(0)] * 3,
        torch.tensor(lengths),
        torch.tensor([character for target in targets for character in target]),
        torch.tensor([len(target) for target in targets]),
    )
    with torch.no_grad():
        loss = learner.spelling_loss(frames, batch)
        likely = learner.characters(frames).double().log_softmax(-1)
    # The last length is cut to the frames that there are.
    expected = [
        ctc(example[:length], target)
        for example, target, length in zip(likely, targets, lengths, strict=True)
    ]

    assert loss.item() == pytest.approx(sum(expected).item() / 7, rel=1e-5)


def test_a_spelling_longer_than_its_speech_is_left_out(built):
    """No path spells it: its loss would be infinite."""
    frames = torch.randn(1, 3, built.learner.config.audio.hidden_size)
    batch: Any = DeviceBatch(*[torch.zeros(0)] * 3, torch.tensor([3]), torch.arange(1, 6), torch.tensor([5]))
    with torch.no_grad():
        assert built.learner.spelling_loss(frames, batch) == 0


def logits(learner: Learner, ids: list[int], mel: Tensor) -> Tensor:
    """Of one example, its soft tokens put between its tokens one by one."""
    audio = learner.config.audio
    soft = learner.embed_audio(learner.audio_tower(mel[None]))[0] if len(mel) else mel
    embedded, following = [], iter(soft)
    for token in ids:
        if token == learner.config.audio_token_id:
            embedded.append(next(following))
        elif token >= audio.vocab_offset:
            embedded.append(learner.embed_audio.hard(torch.tensor([token]))[0])
        else:
            embedded.append(learner.language_model.embed(torch.tensor([token]))[0])
    tokens = torch.tensor([ids])
    return learner.language_model.logits(learner.language_model.hidden(tokens, torch.stack(embedded)[None]))[
        0
    ].double()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["text", "speech"])
def test_the_answer_costs_the_mean_of_what_its_tokens_were_worth(
    learner, request: pytest.FixtureRequest, kind: str, smoothing: float
):
    """Smoothing gives a share of each label to all tokens alike."""
    mel, batch = request.getfixturevalue(kind)
    learner.smoothing = smoothing
    costs = []
    with torch.no_grad():
        loss, _ = learner(mel, DeviceBatch.of(batch, CPU), None)
        for row, (ids, labels) in enumerate(zip(batch.token_ids, batch.labels, strict=True)):
            likely = logits(learner, ids.tolist(), mel[row]).log_softmax(-1)
            for at in np.flatnonzero(labels != -100):
                known, guessed = likely[at, labels[at]], likely[at].mean()
                costs.append(-(1 - smoothing) * known - smoothing * guessed)

    assert loss.item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["text", "speech"])
def test_padded_places_cost_nothing(built, request: pytest.FixtureRequest, kind: str):
    mel, batch = request.getfixturevalue(kind)
    exact, padded = DeviceBatch.of(batch, CPU), DeviceBatch.of(batch, CPU, places=batch.labels.size)
    with torch.no_grad():
        losses, others = built.learner(mel, exact, None), built.learner(mel, padded, None)

    assert len(exact.labels) < len(padded.labels) == len(padded.positions) == batch.labels.size
    torch.testing.assert_close(losses, others)


def test_labels_stay_with_their_positions(speech):
    _, batch = speech
    there = DeviceBatch.of(batch, CPU)

    assert batch.labels.reshape(-1)[there.positions].tolist() == there.labels.tolist()
    assert len(there.positions) == (batch.labels != -100).sum()


def test_frames_are_counted_as_the_encoder_makes_them(built, speech):
    """One in 40 ms, and one more: of the longest example that the bucket allows as many as there are."""
    mel, batch = speech
    longest = replace(batch, samples=np.full_like(batch.samples, TINY.buckets[SPEECH].samples))
    with torch.no_grad():
        frames = built.learner.audio_tower.frames(mel)

    assert DeviceBatch.of(longest, CPU).frames.tolist() == [frames.shape[1]] * len(mel)
    assert DeviceBatch.of(batch, CPU).frames.tolist() == [samples // 640 + 1 for samples in batch.samples]


def test_an_untrained_model_knows_nothing(built, speech):
    """Its loss is that of guessing among all tokens."""
    mel, batch = speech
    with torch.no_grad():
        answer, spelling = built.learner(mel, DeviceBatch.of(batch, CPU), None)

    assert answer.item() == pytest.approx(math.log(built.learner.config.text.vocab_size), rel=0.25)
    assert math.log(built.learner.characters.out_features) < spelling.item() < 50


def test_the_half_model_learns_in_the_leading_units(learner, text):
    """The others get no gradient from its steps."""
    mel, batch = text
    half = TINY.ffn // 2
    answer, _ = learner(mel, DeviceBatch.of(batch, CPU), [half] * len(TINY.layer_types))
    answer.backward()
    gradients = [layer.mlp.gate_proj.weight.grad for layer in learner.language_model.layers]

    assert all(gradient[:half].any() for gradient in gradients)
    assert not any(gradient[half:].any() for gradient in gradients)


def test_text_teaches_the_decoder_alone(learner, text):
    mel, batch = text
    answer, spelling = learner(mel, DeviceBatch.of(batch, CPU), None)
    answer.backward()

    assert spelling.item() == 0
    assert all(parameter.grad is None for parameter in learner.audio_tower.parameters())
    assert all(p.grad is not None for p in learner.language_model.layers[0].mlp.parameters())


def test_hearing_teaches_the_encoder_alone(learner, speech):
    mel, batch = speech
    answer, spelling = learner(mel, DeviceBatch.of(batch, CPU), None, answering=False)
    spelling.backward()

    assert answer.item() == 0
    assert all(parameter.grad is None for parameter in learner.language_model.parameters())
    assert all(p.grad is not None for p in learner.audio_tower.conformer.parameters())


def test_the_answer_teaches_the_encoder_too(learner, speech):
    mel, batch = speech
    answer, _ = learner(mel, DeviceBatch.of(batch, CPU), None)
    answer.backward()

    assert all(p.grad.any() for p in learner.audio_tower.conformer.parameters() if p.ndim == 2)


def test_what_comes_behind_an_answer_costs_nothing(built, text):
    """Everything is causal."""
    mel, batch = text
    scrambled = batch.token_ids.copy()
    for row, labels in zip(scrambled, batch.labels, strict=True):
        row[np.flatnonzero(labels != -100).max() + 2 :] = 17
    with torch.no_grad():
        loss, _ = built.learner(mel, DeviceBatch.of(batch, CPU), None)
        other, _ = built.learner(mel, DeviceBatch.of(replace(batch, token_ids=scrambled), CPU), None)

    torch.testing.assert_close(loss, other)


def test_values_drop_out_in_training_alone(built, learner, text):
    """Every step sees other ones; in what is exported there is no trace of it."""
    mel, batch = text
    there = DeviceBatch.of(batch, CPU)
    with torch.no_grad():
        learning = [learner.train()(mel, there, None)[0].item() for _ in range(3)]
        answering = [learner.eval()(mel, there, None)[0].item() for _ in range(2)]
        plain = Learner(
            learner.config, letters=learner.characters.out_features - 1, smoothing=learner.smoothing
        ).train()
        plain.load_state_dict(learner.state_dict())
        without = plain(mel, there, None)[0].item()

    assert all(one != other for one, other in pairwise(learning))
    assert answering == [pytest.approx(without, rel=1e-6)] * 2
    assert learner.dropout == TINY.dropout > 0
