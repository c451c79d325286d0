from __future__ import annotations

import random
import secrets
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batching import Batch
from pipeline.errors import AudioError, CheckpointError, ContextError
from pipeline.gemma import layers
from pipeline.gemma.bias import Bias, Pull, Terms
from pipeline.gemma.greedy import Ranking, Segment, greedy
from pipeline.gemma.steps import FixedSteps
from pipeline.model import Gemma3n
from tests import reference


@pytest.fixture(params=range(3))
def seed(request: pytest.FixtureRequest) -> int:
    """A seed that was never used before; three of them to each test that asks for it."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    return seed


@pytest.fixture
def rng(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def folder(seed: int, tmp_path: Path) -> Path:
    """A checkpoint of a random configuration, as transformers writes it."""
    reference.build(reference.random_config(random.Random(seed)), seed).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder: Path) -> Gemma3n:
    return Gemma3n.from_pretrained(folder)


def text(model: Gemma3n, rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(model.config.text.vocab_size_per_layer_input) for _ in range(length)]


def greedy_by_definition(model: Gemma3n, token_ids: list[int], count: int, stop: set[int]) -> list[int]:
    """Greedy decoding that computes everything anew for every token."""
    output: list[int] = []
    while len(output) < count:
        logits = model.logits([*token_ids, *output])[-1, : model.config.vision_vocab_offset]
        choice = int(logits.argmax())
        if choice in stop:
            break
        output.append(choice)
    return output


@pytest.mark.parametrize("number", range(8))
def test_parity_with_transformers(number, tmp_path):
    """Random configurations, half of them in shards: logits and soft tokens agree to 1e-4."""
    seed = 2 * secrets.randbits(31) + number % 2
    print(f"seed = {seed}")
    errors = reference.parity(seed, tmp_path)

    assert max(errors.values()) < 1e-4, errors
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or number % 2 == 0


def test_generation_is_greedy(model, rng):
    """The cache, the skipped layers and the last token fed make no difference."""
    prompt = text(model, rng, 20)
    stop = set(text(model, rng, 2))
    cache = model.new_cache()
    output = model.greedy(cache, prompt, 12, stop)

    assert output == greedy_by_definition(model, prompt, 12, stop)
    assert output == model.generate(prompt, max_new_tokens=12, stop_ids=stop)
    assert cache.length == len(prompt) + len(output)


def test_a_stop_id_ends_the_output_and_stays_out_of_it(model, rng):
    prompt = text(model, rng, 10)
    free = model.generate(prompt, max_new_tokens=6, stop_ids=())
    cache = model.new_cache()

    assert len(free) == 6
    assert model.greedy(cache, prompt, 6, {free[0]}) == []
    assert cache.length == 10


def test_a_draft_changes_nothing_but_the_work(model, rng):
    """Right, wrong in the middle, too long, or with a stop id inside."""
    prompt = text(model, rng, 15)
    free = model.generate(prompt, max_new_tokens=10, stop_ids=())
    wrong = list(free)
    at = rng.randrange(len(free))
    wrong[at] = (wrong[at] + 1) % model.config.text.vocab_size_per_layer_input
    stop = {free[rng.randrange(len(free))]}
    for stop_ids in (set(), stop):
        expected = model.generate(prompt, max_new_tokens=10, stop_ids=stop_ids)
        for draft in ([], free[:4], free, wrong, free + free, text(model, rng, 3)):
            cache = model.new_cache()
            assert model.greedy(cache, prompt, 10, stop_ids, draft) == expected
            assert cache.length == len(prompt) + len(expected)


def test_decoding_continues_where_the_cache_stands(model, rng):
    """Text, then audio as it arrives, then text; and again from the end of the audio."""
    audio = model.encode_audio(reference.waveform(rng, 1.5))
    soft = [model.config.audio_token_id] * len(audio)
    before, after = text(model, rng, 6), text(model, rng, 4)
    expected = model.generate([*before, *soft, *after], audio, max_new_tokens=5, stop_ids=())
    cut = rng.randint(0, len(audio))
    cache = model.new_cache()
    model.extend(cache, before)
    model.extend(cache, soft[:cut], audio[:cut])
    model.extend(cache, soft[cut:], audio[cut:])
    for draft in ((), expected):
        assert model.greedy(cache.fork(), after, 5, (), draft) == expected


def test_forks_share_a_past_and_nothing_else(model, rng):
    prompt, one, other = text(model, rng, 9), text(model, rng, 3), text(model, rng, 5)
    cache = model.new_cache()
    model.extend(cache, prompt)
    twin = cache.fork()
    first = model.greedy(cache, one, 4, ())
    second = model.greedy(twin, other, 4, ())

    assert first == model.generate([*prompt, *one], max_new_tokens=4, stop_ids=())
    assert second == model.generate([*prompt, *other], max_new_tokens=4, stop_ids=())


def test_image_and_audio_ids_are_never_generated(model, rng):
    """Even where they have the largest logits."""
    embeddings = model.language_model.embed_tokens.weight
    hard = range(model.config.vision_vocab_offset, model.config.text.vocab_size)
    embeddings[hard.start :] = 100 * embeddings[: len(hard)]
    prompt = text(model, rng, 8)

    assert model.logits(prompt).argmax(-1).max() >= hard.start
    assert max(model.generate(prompt, max_new_tokens=8, stop_ids=())) < hard.start


def test_an_audio_stream_gives_the_tokens_of_the_whole(model, rng):
    samples = reference.waveform(rng, 4.0)
    whole = model.encode_audio(samples)
    stream = model.audio_stream()
    for _ in range(2):  # a flushed stream is as new
        cuts = sorted(rng.randrange(len(samples)) for _ in range(9))
        pieces = [stream.push(piece) for piece in np.split(samples, cuts)]
        torch.testing.assert_close(torch.cat([*pieces, stream.flush()]), whole, atol=1e-4, rtol=0)


def test_too_little_audio_gives_no_tokens(model):
    assert model.encode_audio(np.zeros(0, np.float32)).shape == (0, model.config.text.hidden_size)
    assert model.audio_stream().flush().shape == (0, model.config.text.hidden_size)


@pytest.mark.parametrize("shape", [(2, 100), ()])
def test_a_waveform_of_another_shape_is_refused(model, shape):
    with pytest.raises(AudioError, match=r"must have the shape \[samples\]"):
        model.encode_audio(np.zeros(shape, np.float32))


def test_soft_tokens_must_be_as_many_as_their_places(model):
    soft = model.config.audio_token_id
    with pytest.raises(ValueError, match="2 audio soft-token ids for 3 soft tokens"):
        model.logits([1, soft, soft], torch.zeros(3, model.config.text.hidden_size))
    with pytest.raises(ValueError, match="1 audio soft-token ids for 0 soft tokens"):
        model.logits([1, soft])


def test_ids_without_an_embedding_are_refused(model):
    vision, end = model.config.vision_vocab_offset, model.config.text.vocab_size
    with pytest.raises(ValueError, match=rf"without an embedding for text or audio: \[{vision}\]"):
        model.logits([1, vision])
    with pytest.raises(ValueError, match=rf"without an embedding for text or audio: \[{end}\]"):
        model.logits([1, end])
    with pytest.raises(ValueError, match=r"without an embedding for text or audio: \[-1\]"):
        model.logits([1, -1])


def test_greedy_decoding_needs_a_token(model):
    with pytest.raises(ValueError, match="at least one token"):
        model.generate([], stop_ids=())


def test_half_precision_comes_close(folder, model, rng):
    """Weights in bfloat16, soft tokens and logits in float32 all the same."""
    half = Gemma3n.from_pretrained(folder, dtype=torch.bfloat16)
    samples, prompt = reference.waveform(rng, 2.0), text(model, rng, 20)
    audio, expected = half.encode_audio(samples), model.encode_audio(samples)
    stream = half.audio_stream()
    streamed = torch.cat([stream.push(samples), stream.flush()])
    logits = half.logits(prompt)

    assert half.language_model.norm.weight.dtype == torch.bfloat16
    assert audio.dtype == logits.dtype == torch.float32
    assert (audio - expected).square().mean().sqrt() < 0.1
    assert (streamed - expected).square().mean().sqrt() < 0.1
    assert (logits - model.logits(prompt)).square().mean().sqrt() < 0.1 * model.logits(prompt).std() + 0.05


def test_a_submodel_has_the_leading_units(folder, model, rng):
    """Read as one it computes what the whole model computes over its first units, and is smaller."""
    widths = [rng.randint(8, width) for width in model.config.text.intermediate_size]
    narrow = Gemma3n.from_pretrained(folder, ffn_widths=widths)
    ids = torch.tensor([text(model, rng, 12)])
    decoder = model.language_model
    hidden = decoder.hidden(ids, decoder.embed(ids), ffn_widths=widths)

    assert narrow.config.text.intermediate_size == tuple(widths)
    torch.testing.assert_close(narrow.logits(ids[0].tolist()), decoder.logits(hidden)[0], atol=1e-4, rtol=0)


@pytest.fixture
def sub_models(model, rng) -> list[tuple[int, ...] | None]:
    """Sub-models that agree below the sharing point, one that does not, and the whole."""
    config = model.config.text

    def narrowed(first: int) -> tuple[int, ...]:
        # A layer above the sharing point may be missing too.
        least = 0 if first >= config.first_shared_layer else 8
        widths = config.intermediate_size
        return tuple(rng.choice([least, 8, most]) if at >= first else most for at, most in enumerate(widths))

    upper = [narrowed(config.first_shared_layer) for _ in range(3)]
    return [None, *upper, (8, *config.intermediate_size[1:])]


def test_sub_models_are_views(model, sub_models, rng, monkeypatch):
    """Whichever are used: the weights that are multiplied with lie in the whole model's memory."""
    ranges = [(p.data_ptr(), p.data_ptr() + p.nbytes) for p in model.language_model.parameters()]
    linear, gather, seen = torch.nn.functional.linear, layers.sparse_feed_forward, []

    def spy(x, weight, bias=None):
        seen.append(weight.data_ptr())
        return linear(x, weight, bias)

    def spy_gather(x, *matrices, z, out):
        seen.extend(matrix.ctypes.data for matrix in matrices)
        gather(x, *matrices, z=z, out=out)

    prompt = text(model, rng, 5)
    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    monkeypatch.setattr(layers, "sparse_feed_forward", spy_gather)
    for widths in sub_models:
        model.greedy(model.new_cache(), prompt, 3, (), ffn_widths=widths)

    assert len(seen) > 50
    assert all(any(begin <= address < end for begin, end in ranges) for address in seen)


def test_streams_in_different_sub_models_share_a_batch(model, sub_models, rng):
    pool = model.new_pool()
    prompts = [text(model, rng, rng.randint(2, 9)) for _ in sub_models]
    batch = Batch(model.step)
    for number, (prompt, widths) in enumerate(zip(prompts, sub_models, strict=True)):
        batch.add(number, greedy(model.new_cache(pool), prompt, 6, (), ffn_widths=widths))
    said = {}
    while len(batch):
        said |= dict(batch.step())

    for number, (prompt, widths) in enumerate(zip(prompts, sub_models, strict=True)):
        assert said[number] == model.greedy(model.new_cache(), prompt, 6, (), ffn_widths=widths)


def test_a_sequence_goes_on_in_any_sub_model_of_its_group(model, sub_models, rng):
    """Token by token in another one: each says what it would after computing all of the past itself."""
    group, ids = sub_models[:-1], text(model, rng, 6)
    cache = model.new_cache()
    model.extend(cache, ids[:-1], ffn_widths=rng.choice(group))
    for _ in range(12):
        widths = rng.choice(group)
        ((choice,),) = model.step([Segment(cache, ids[-1:], 1, None, widths)])
        logits = model.logits(ids, ffn_widths=widths)[-1, : model.config.vision_vocab_offset]
        assert logits[choice] >= logits.max() - 1e-4
        ids.append(choice)


def test_no_sequence_goes_on_in_a_sub_model_of_another_group(model, sub_models, rng):
    *group, stranger = sub_models
    cache, ids = model.new_cache(), text(model, rng, 4)
    model.extend(cache, ids)
    for widths in (stranger, *group):
        twin = cache.fork()
        if widths == stranger:
            with pytest.raises(ValueError, match="computes other keys and values"):
                model.extend(twin, ids, ffn_widths=widths)
            assert twin.length == len(ids)
        else:
            model.extend(twin, ids, ffn_widths=widths)
    cache.truncate(0)
    assert model.greedy(cache, ids, 4, (), ffn_widths=stranger) == model.greedy(
        model.new_cache(), ids, 4, (), ffn_widths=stranger
    )


def test_a_sub_model_that_there_is_not_harms_nobody_else(model, rng):
    pool, prompt = model.new_pool(), text(model, rng, 4)
    segments = [
        Segment(model.new_cache(pool), prompt, 1, None, widths)
        for widths in (
            (1, 2, 3, 4, 5, 6, 7, 8),
            None,
            tuple(n + 1 for n in model.config.text.intermediate_size),
        )
    ]
    first, second, third = model.step(segments)

    assert isinstance(first, CheckpointError)
    assert second == model.greedy(model.new_cache(), prompt, 1, ())
    assert isinstance(third, CheckpointError)
    with pytest.raises(CheckpointError, match="a width for each"):
        model.logits(prompt, ffn_widths=(1, 2, 3, 4, 5, 6, 7, 8))
    with pytest.raises(CheckpointError, match="a width for each"):
        model.prepare(pool, 1, 1, ffn_widths=(1, 2, 3, 4, 5, 6, 7, 8))


def test_on_a_cpu_there_is_nothing_to_prepare(model):
    pool = model.new_pool()
    model.prepare(pool, 4, 100)

    assert not pool.steps


@torch.inference_mode()
def test_rounds_in_shapes_for_a_gpu_say_what_plain_ones_say(model, rng, monkeypatch):
    """Prompts with sound, steps, drafts and soft tokens beside each other; those with wishes as ever."""
    pool, twins = model.new_pool(), model.new_pool()
    soft, first = model.config.audio_token_id, model.config.audio.vocab_offset
    hard = [id_ for id_ in range(first, first + model.config.audio.vocab_size) if id_ != soft]
    pairs = [(model.new_cache(pool), model.new_cache(twins)) for _ in range(rng.randint(2, 12))]
    fixed, run = [], Gemma3n._fixed_pass

    def counted(self, ffn_widths, pieces):
        fixed.append(len(pieces))
        return run(self, ffn_widths, pieces)

    for number in range(8):
        works = []
        for pair in rng.sample(pairs, rng.randint(1, len(pairs))):
            ids = text(model, rng, rng.choice([1, 1, 3, 20, 90]))
            if rng.random() < 0.3:
                ids[rng.randrange(len(ids))] = rng.choice(hard)
            heard = None
            if rng.random() < 0.5:
                heard = torch.randn(rng.randint(1, 5), model.config.text.hidden_size)
                at = rng.randint(0, len(ids))
                ids[at:at] = [soft] * len(heard)
            keep = rng.choice([0, 1, rng.randint(0, min(4, len(ids)))])
            odds: list[float] | None = [] if rng.random() < 0.1 else None
            caches = [cache.fork() for cache in pair] if number == 6 else pair
            works.append([Segment(cache, ids, keep, heard, odds=odds) for cache in caches])
        expected = model.step([theirs for _, theirs in works])
        with monkeypatch.context() as patched:
            patched.setattr(Gemma3n, "_on_gpu", True)
            patched.setattr(Gemma3n, "_fixed_pass", counted)
            patched.setattr("pipeline.model.suits", lambda *_: False)
            got = model.step([ours for ours, _ in works])
        assert got == expected
        assert [ours.length for ours, _ in pairs] == [theirs.length for _, theirs in pairs]
    assert max(fixed) > 1


def test_a_pass_without_memory_leaves_its_sequences_as_they_were(model, rng, monkeypatch):
    """In shapes for a GPU too: what fails is tried again with half of them."""
    pool = model.new_pool()
    caches = [model.new_cache(pool) for _ in range(4)]
    segments = [Segment(cache, text(model, rng, rng.randint(2, 30)), 1) for cache in caches]
    expected = model.step([Segment(model.new_cache(), one.token_ids, 1) for one in segments[:1]])
    go_on = FixedSteps.go_on

    def short(self, caches, *rest):
        if len(caches) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return go_on(self, caches, *rest)

    monkeypatch.setattr(Gemma3n, "_on_gpu", True)
    monkeypatch.setattr(FixedSteps, "go_on", short)
    got = model.step(segments)

    assert got[0] == expected[0]
    assert [cache.length for cache in caches] == [len(one.token_ids) for one in segments]


def test_a_model_without_tokenizer_serves_audio_and_ids(model):
    """Tokenizer files are read when text is first needed."""
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        _ = model.tokenizer


def test_segments_of_one_stream_may_come_as_a_tuple(babbler):
    """Answered with a list, or with what is wrong with one of them; others are left alone."""
    ids = [5, 6, 7]

    def segment(pool, wrong=False):
        return Segment(babbler.new_cache(pool, 2 if wrong else None), ids, 2)

    pool = babbler.new_pool()
    (alone,) = babbler.step([segment(pool)])
    both, single, broken = babbler.step(
        [(segment(pool), segment(pool)), segment(pool), (segment(pool), segment(pool, wrong=True))]
    )

    assert both == [alone, alone]
    assert single == alone
    assert isinstance(broken, ContextError)


def test_a_segment_tells_how_likely_its_answers_are(babbler, speech):
    """As :meth:`Gemma3n.logits` has it, among ids of text; of those alone that ask, in a batch."""
    audio = babbler.encode_audio(speech[:16_000])
    prompt = babbler.prompt
    ids = [
        *prompt.before_audio("es", "en"),
        *[babbler.config.audio_token_id] * len(audio),
        *prompt.after_audio(),
    ]
    pool, odds = babbler.new_pool(), [0.0]
    asking = Segment(babbler.new_cache(pool), ids, 5, audio, odds=odds)
    other = Segment(babbler.new_cache(pool), ids[:3], 2)
    answers = babbler.step([other, asking, Segment(babbler.new_cache(pool), ids[:4], 1)])
    text = babbler.logits(ids, audio)[-5:, : babbler.config.vision_vocab_offset].log_softmax(-1)

    assert answers[1] == text.argmax(-1).tolist()
    torch.testing.assert_close(torch.tensor(odds), text.amax(-1), atol=1e-4, rtol=0)


def test_where_a_text_is_drawn_elsewhere_that_alone_may_come_next(babbler):
    """As likely as what would have come; what it is not drawn away from may come beside others."""
    ids = [5, 6, 7]
    free, drawn, kept = Ranking(3), Ranking(3), Ranking(3)
    terms = babbler.logits(ids)[-1, : babbler.config.vision_vocab_offset]
    first, second = terms.topk(2).indices.tolist()
    bonus = float(terms[first] - terms[second]) + 1
    towards = Bias((Terms([[second]], [], Pull(bonus, bonus)),))
    biases = None, towards, Bias((Terms([[first]], [], Pull(bonus, bonus)),))
    pool = babbler.new_pool()
    answers = babbler.step(
        [
            Segment(babbler.new_cache(pool), ids, 1, bias=bias, ranking=ranking)
            for bias, ranking in zip(biases, (free, drawn, kept), strict=True)
        ]
    )

    assert answers == [[first], [second], [first]]
    assert drawn.likeliest == [(second, pytest.approx(free.likeliest[0][1], abs=1e-4))]
    assert [token for token, _ in kept.likeliest] == [token for token, _ in free.likeliest]
    assert len(free.likeliest) == 3


@pytest.mark.parametrize("quick", [True, False])
def test_a_segment_tells_what_may_come_next(babbler, monkeypatch, quick):
    """As :meth:`Gemma3n.logits` has it, the likeliest first; in a batch each gets as many as it asks for."""
    if not quick:
        monkeypatch.setattr("pipeline.model.suits", lambda *_: False)
    pool, given = babbler.new_pool(), [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    rankings = [Ranking(3), None, Ranking(7)]
    babbler.step(
        [
            Segment(babbler.new_cache(pool), ids, keep, ranking=ranking)
            for ids, keep, ranking in zip(given, (1, 2, 3), rankings, strict=True)
        ]
    )

    for ids, ranking in zip(given, rankings, strict=True):
        if ranking is not None:
            expected = babbler.logits(ids)[-1, : babbler.config.vision_vocab_offset].log_softmax(-1)
            best = expected.topk(ranking.most)
            assert [token for token, _ in ranking.likeliest] == best.indices.tolist()
            odds = torch.tensor([odds for _, odds in ranking.likeliest])
            torch.testing.assert_close(odds, best.values, atol=1e-4, rtol=0)
