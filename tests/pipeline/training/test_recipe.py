"""The recipe's sizes make a Gemma 3n, and the tiny recipe is the same one in small."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.cli import NANO
from pipeline.config import ModelConfig, StreamConfig
from pipeline.gemma.prompt import PromptTemplate
from pipeline.layout import slice_config
from pipeline.training import recipe as recipes
from pipeline.training.engines import ENGINES, training_voices
from pipeline.training.learner import Learner
from pipeline.training.recipe import TINY, Recipe
from pipeline.training.text import LANGUAGES
from pipeline.training.vocabulary import AUDIO, HARD_TOKENS, SPECIAL, VISION

ALL = recipes.speaking(Recipe(), LANGUAGES)
BOTH = pytest.mark.parametrize("recipe", [Recipe(), TINY, ALL], ids=["real", "tiny", "all languages"])


def config(recipe: Recipe) -> ModelConfig:
    size = recipe.text_tokens
    special = {name: index for index, name in enumerate(SPECIAL)}
    special |= {name: size + index for index, name in enumerate(VISION)}
    special |= {name: size + HARD_TOKENS + index for index, name in enumerate(AUDIO)}
    return ModelConfig.from_dict(recipes.config(recipe, special))


@BOTH
def test_the_configuration_has_the_recipe_s_sizes(recipe: Recipe):
    made = config(recipe)

    assert made.text.hidden_size == recipe.width
    assert made.audio.hidden_size == recipe.audio_width
    assert made.text.num_attention_heads * made.text.head_dim == recipe.width
    assert made.text.num_hidden_layers == len(recipe.layer_types)
    assert made.text.vocab_size_per_layer_input == made.vision_vocab_offset == recipe.text_tokens
    assert made.audio.vocab_offset == recipe.text_tokens + HARD_TOKENS
    assert made.audio.vocab_offset <= made.audio_token_id < made.text.vocab_size


@BOTH
def test_the_half_of_it_is_a_model_too(recipe: Recipe):
    made = config(recipe)

    assert slice_config(made, recipe.ffn // 2).text.intermediate_size == (recipe.ffn // 2,) * len(
        recipe.layer_types
    )


@BOTH
def test_layers_that_share_find_keys_and_values_of_their_kind(recipe: Recipe):
    own, sharing = recipe.layer_types[: -recipe.shared], recipe.layer_types[-recipe.shared :]

    assert set(sharing) <= set(own)


@BOTH
def test_buckets_divide_the_steps_and_grow(recipe: Recipe):
    seconds = [bucket.seconds for bucket in recipe.buckets]

    assert sum(bucket.share for bucket in recipe.buckets) == pytest.approx(1)
    assert seconds == sorted(set(seconds))
    assert seconds[0] == 0
    assert recipe is TINY or seconds[-1] >= StreamConfig().window


@BOTH
def test_its_engines_speak_every_language(recipe: Recipe):
    assert set(recipe.engines) <= set(ENGINES)
    assert all(training_voices(language, recipe.engines) for language in recipe.languages)


def test_languages_are_spanish_and_english_unless_others_are_asked_for():
    assert recipes.template(Recipe()).languages == ("es", "en")
    assert recipes.speaking(Recipe(), Recipe().languages) == Recipe()
    assert recipes.template(ALL).languages == LANGUAGES
    assert not recipes.template(ALL).context
    assert "{context}" in recipes.template(dataclasses.replace(ALL, told=0.1)).context


def test_the_bundled_model_is_what_the_recipe_makes_in_its_languages():
    """With contexts; a model that was trained with another prompt or other sizes is not."""
    template = PromptTemplate.from_pretrained(NANO)
    made = dataclasses.replace(recipes.speaking(Recipe(), template.languages), told=0.1)

    assert recipes.template(made) == template
    assert ModelConfig.from_pretrained(NANO).text == config(made).text


def test_with_all_languages_the_model_stays_below_40_mb():
    """The weights, and 200 kB for the tokenizer, which has 115 kB with 4,096 tokens."""
    with torch.device("meta"):
        learner = Learner(config(ALL), letters=1)
    exported = [
        parameter.numel()
        for name, parameter in learner.named_parameters()
        if not name.startswith("characters")
    ]

    assert ALL.text_tokens == 5_632
    assert 39e6 < 2 * sum(exported) < 39.8e6


def test_the_real_recipe_uses_every_engine_and_the_tiny_one_what_ci_has():
    assert Recipe().engines == ENGINES
    assert TINY.engines == ("espeak-ng",)


def test_going_on_is_gentler_and_changes_nothing_else():
    resumed = recipes.resumed(Recipe())
    changed = {
        field.name
        for field in dataclasses.fields(Recipe)
        if getattr(resumed, field.name) != getattr(Recipe(), field.name)
    }

    assert changed == {"matrix_rate", "vector_rate", "warmup", "hearing_share"}
    assert resumed.matrix_rate < Recipe().matrix_rate
    assert resumed.vector_rate < Recipe().vector_rate
