"""Frozen configuration: the model in the words of its ``config.json``, the stream in ours.

Field names, defaults and derived model values are those of transformers' ``Gemma3nTextConfig``,
``Gemma3nAudioConfig`` and ``Gemma3nConfig`` (``models/gemma3n/configuration_gemma3n.py``), so that
a checkpoint's ``config.json`` reads straight into them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pipeline.errors import AudioError, CheckpointError
from pipeline.glossary import Entry, check_glossary

SAMPLE_RATE = 16_000
"""Samples per second of all audio inside the pipeline."""

T = TypeVar("T")

FULL = "full_attention"
SLIDING = "sliding_attention"


@dataclass(frozen=True)
class TextConfig:
    """The decoder. Per-layer lists have ``num_hidden_layers`` entries."""

    vocab_size: int = 262_400
    vocab_size_per_layer_input: int = 262_144
    hidden_size: int = 2048
    hidden_size_per_layer_input: int = 256
    intermediate_size: tuple[int, ...] = (16_384,) * 35
    num_hidden_layers: int = 35
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 256
    num_kv_shared_layers: int = 15
    layer_types: tuple[str, ...] = ()
    sliding_window: int = 512
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float | None = 30.0
    activation_sparsity_pattern: tuple[float, ...] = ()
    altup_num_inputs: int = 4
    altup_active_idx: int = 0
    altup_coef_clip: float | None = 120.0
    altup_correct_scale: bool = True
    laurel_rank: int = 64
    max_position_embeddings: int = 32_768
    pad_token_id: int = 0
    bos_token_id: int = 2

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read ``text_config``, in the older and the newer spelling of its rope parameters."""
        layers = int(raw.get("num_hidden_layers", cls.num_hidden_layers))
        widths = raw.get("intermediate_size", 16_384)
        sparse = 10 if layers > 10 else 0
        rope = raw.get("rope_parameters") or {}
        derived = {
            "intermediate_size": _per_layer(
                "intermediate_size", [widths] * layers if isinstance(widths, int) else widths, layers
            ),
            "layer_types": _per_layer(
                "layer_types",
                raw.get("layer_types") or [SLIDING if (i + 1) % 5 else FULL for i in range(layers)],
                layers,
            ),
            "activation_sparsity_pattern": _per_layer(
                "activation_sparsity_pattern",
                _expand_sparsity(raw.get("activation_sparsity_pattern"), layers, sparse),
                layers,
            ),
            "rope_theta": rope.get(FULL, {}).get("rope_theta", raw.get("rope_theta", cls.rope_theta)),
            "rope_local_base_freq": rope.get(SLIDING, {}).get(
                "rope_theta", raw.get("rope_local_base_freq", cls.rope_local_base_freq)
            ),
        }
        config = _from_fields(cls, {**raw, **derived})
        unknown = set(config.layer_types) - {FULL, SLIDING}
        if unknown:
            raise CheckpointError(
                f"config.json: layer_types has {sorted(unknown)}; known are {FULL!r} and {SLIDING!r}"
            )
        missing = set(config.layer_types) - set(config.layer_types[: config.first_shared_layer])
        if missing:
            raise CheckpointError(
                f"config.json: no layer below the sharing point ({config.first_shared_layer}) "
                f"computes KV for {sorted(missing)}"
            )
        return config

    @property
    def first_shared_layer(self) -> int:
        """Index of the first layer that owns no KV; equals the layer count when none is shared."""
        return self.num_hidden_layers - self.num_kv_shared_layers

    def kv_source(self, layer: int) -> int:
        """Index of the layer whose keys and values ``layer`` attends to (itself below the sharing point)."""
        if layer < self.first_shared_layer:
            return layer
        own = self.layer_types[: self.first_shared_layer]
        return len(own) - 1 - own[::-1].index(self.layer_types[layer])


@dataclass(frozen=True)
class AudioConfig:
    """The USM conformer encoder."""

    vocab_size: int = 128
    vocab_offset: int = 262_272
    input_feat_size: int = 128
    hidden_size: int = 1536
    rms_norm_eps: float = 1e-6
    gradient_clipping: float = 1e10
    conf_attention_chunk_size: int = 12
    conf_attention_context_left: int = 13
    conf_attention_context_right: int = 0
    conf_attention_logit_cap: float = 50.0
    conf_num_attention_heads: int = 8
    conf_num_hidden_layers: int = 12
    conf_conv_kernel_size: int = 5
    conf_reduction_factor: int = 4
    conf_residual_weight: float = 0.5
    sscp_conv_channel_size: tuple[int, int] = (128, 32)
    sscp_conv_group_norm_eps: float = 1e-3
    sscp_conv_kernel_size: tuple[tuple[int, int], tuple[int, int]] = ((3, 3), (3, 3))
    sscp_conv_stride_size: tuple[tuple[int, int], tuple[int, int]] = ((2, 2), (2, 2))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read ``audio_config``; a right context other than 0, which cannot be streamed, is refused."""
        config = _from_fields(cls, raw)
        if config.conf_attention_context_right != 0:
            raise CheckpointError(
                "config.json: conf_attention_context_right must be 0 (a causal encoder), "
                f"got {config.conf_attention_context_right}"
            )
        return config


@dataclass(frozen=True)
class ModelConfig:
    """``config.json`` of a ``Gemma3nForConditionalGeneration`` checkpoint, vision left out."""

    text: TextConfig
    audio: AudioConfig
    vision_vocab_size: int = 128
    vision_vocab_offset: int = 262_144
    boa_token_id: int = 256_000
    eoa_token_id: int = 262_272
    audio_token_id: int = 262_273
    eos_token_ids: tuple[int, ...] = (1, 106)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read the whole of ``config.json``.

        Raises:
            CheckpointError: it is not a Gemma 3n configuration.
        """
        if raw.get("model_type") != "gemma3n" or not raw.get("text_config") or not raw.get("audio_config"):
            raise CheckpointError(
                f"config.json: expected model_type 'gemma3n' with a text_config and an audio_config, "
                f"got model_type {raw.get('model_type')!r}"
            )
        vision = raw.get("vision_config") or {}
        eos = raw.get("eos_token_id", [1, 106])
        return cls(
            text=TextConfig.from_dict(raw["text_config"]),
            audio=AudioConfig.from_dict(raw["audio_config"]),
            vision_vocab_size=vision.get("vocab_size", cls.vision_vocab_size),
            vision_vocab_offset=vision.get("vocab_offset", cls.vision_vocab_offset),
            boa_token_id=raw.get("boa_token_id", cls.boa_token_id),
            eoa_token_id=raw.get("eoa_token_id", cls.eoa_token_id),
            audio_token_id=raw.get("audio_token_id", cls.audio_token_id),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else (int(eos),),
        )

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read ``config.json`` in ``folder``.

        Raises:
            CheckpointError: the file is missing, is not JSON, or is not a Gemma 3n configuration.
        """
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder}: no config.json; a model is a folder in Hugging Face layout "
                "(config.json, *.safetensors, tokenizer.json)"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
        if not isinstance(raw, dict):
            raise CheckpointError(f"{path}: expected a JSON object, got {type(raw).__name__}")
        try:
            return cls.from_dict(raw)
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path}: a value is not of its type: {error}") from None


def _per_layer(name: str, given: Any, layers: int) -> tuple[Any, ...]:
    values = tuple(given)
    if len(values) != layers:
        raise CheckpointError(f"config.json: {name} has {len(values)} entries for {layers} layers")
    return values


def _expand_sparsity(value: Any, layers: int, sparse: int) -> list[float]:
    if value is None:
        return [0.95] * sparse + [0.0] * (layers - sparse)
    return [float(value)] * layers if isinstance(value, (int, float)) else list(value)


def _from_fields(cls: type[T], raw: Mapping[str, Any]) -> T:
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: _frozen(value) for name, value in raw.items() if name in names})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


COMPRESSED = ("opus", "flac")
"""Encodings whose streams name their sample rate and channels themselves."""

ENCODINGS = ("pcm_s16le", "pcm_f32le", "mulaw", "alaw", *COMPRESSED)
"""Accepted encodings of a live stream's audio, by their names in the wire protocol."""


@dataclass(frozen=True)
class AudioFormat:
    """How a client's audio bytes are to be read.

    Args:
        encoding: one of :data:`ENCODINGS`.
        sample_rate: samples per second and channel, 8,000 to 192,000; without meaning where ``compressed``.
        channels: interleaved channels, 1 to 8; they are averaged; without meaning where ``compressed``.

    Raises:
        AudioError: a value outside these.
    """

    encoding: str = "pcm_s16le"
    sample_rate: int = SAMPLE_RATE
    channels: int = 1

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise AudioError(f"unknown audio encoding {self.encoding!r}; accepted are {', '.join(ENCODINGS)}")
        for name, low, high in (("sample_rate", 8_000, 192_000), ("channels", 1, 8)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise AudioError(f"audio {name} must be a whole number from {low} to {high}, got {value!r}")

    @property
    def compressed(self) -> bool:
        """Whether the bytes have to go through a :class:`~pipeline.audio.codecs.CompressedDecoder`."""
        return self.encoding in COMPRESSED

    @property
    def bytes_per_frame(self) -> int:
        """Bytes of one sample of all channels; 1 where ``compressed``, for samples have no length there."""
        if self.compressed:
            return 1
        return {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}[self.encoding] * self.channels


@dataclass(frozen=True)
class GateConfig:
    """When speech starts and ends. Times are seconds; the gate works in frames of 0.03.

    The start values are those of the field (Silero's and Riva's endpointing defaults are near them), the
    two levels those at which recorded speech is still found at 5 dB above noise and steady noise is not.

    Args:
        aggressiveness: mode of WebRTC's detector, 0 (lets most through) to 3.
        onset: how much of twice this time has to be speech for an utterance to open.
        preroll: kept before the first speech, for soft consonants.
        postroll: kept after the last speech.
        hangover: without speech for this long, an utterance is over.
        min_speech: an utterance with less speech than this is not announced.
        snr_db: how far a frame is above the noise floor that opens an utterance.
        release_db: how far one is at least that continues it.

    Raises:
        ValueError: a value outside its range.
    """

    aggressiveness: int = 2
    onset: float = 0.12
    preroll: float = 0.30
    postroll: float = 0.25
    hangover: float = 0.50
    min_speech: float = 0.15
    snr_db: float = 4.5
    release_db: float = 3.0

    def __post_init__(self) -> None:
        if self.aggressiveness not in (0, 1, 2, 3):
            raise ValueError(f"aggressiveness must be 0, 1, 2 or 3, got {self.aggressiveness!r}")
        for name, low in (
            ("onset", 0.0),
            ("preroll", 0.0),
            ("postroll", 0.0),
            ("hangover", 0.03),
            ("min_speech", 0.0),
            ("release_db", 0.1),
            ("snr_db", self.release_db),
        ):
            value = getattr(self, name)
            if not low <= value < float("inf"):
                raise ValueError(f"{name} must be a number from {low:g} up, got {value!r}")


CONTEXT_CHARACTERS = 500
"""Longest text of a context."""

BEAMS, MOST_BEAMS = 4, 16
"""How many texts go on beside each other on a CPU if a command or a server is not told; and at most."""

CONTEXT_SENTENCES = 20
"""Most sentences that were said in a context."""

POLICIES = ("agreement", "delay", "attention")
"""When text becomes stable: :mod:`pipeline.text.agreement`, ``delay`` and ``attention``."""


@dataclass(frozen=True)
class PolicyConfig:
    """When text of a running utterance becomes stable, its transcript's and its translations' alike.

    Args:
        kind: one of :data:`POLICIES`.
        agreement: for ``agreement``: how many hypotheses in a row have to agree, 1 to 10.
        delay: for ``delay``: seconds of audio that a word waits, 0 to 30.
        newest: for ``attention``: seconds of audio, at the end of what was heard, that no stable word may
            rest on, 0 to 30; soft tokens are 0.16 long.

    Raises:
        ValueError: a value outside these.
    """

    kind: str = "agreement"
    agreement: int = 3
    delay: float = 1.28
    newest: float = 0.96

    def __post_init__(self) -> None:
        if self.kind not in POLICIES:
            raise ValueError(f"unknown policy {self.kind!r}; accepted are {', '.join(POLICIES)}")
        for name, low, high in (("agreement", 1, 10), ("delay", 0, 30), ("newest", 0, 30)):
            value, whole = getattr(self, name), name == "agreement"
            kinds = (int,) if whole else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{name} must be {kind} from {low} to {high}, got {value!r}")


@dataclass(frozen=True)
class ContextConfig:
    """What the model is told before the audio of each utterance.

    Args:
        text: names and topics in one line of at most 500 characters.
        sentences: how many of the sentences that were last said are told behind it, 0 to 20.

    Raises:
        ValueError: a value outside these.
    """

    text: str = ""
    sentences: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or len(self.text) > CONTEXT_CHARACTERS:
            raise ValueError(f"text must be a string of at most {CONTEXT_CHARACTERS} characters")
        if not self.text.isprintable():
            raise ValueError("text must be one line of printable characters")
        whole = isinstance(self.sentences, int) and not isinstance(self.sentences, bool)
        if not whole or not 0 <= self.sentences <= CONTEXT_SENTENCES:
            raise ValueError(
                f"sentences must be a whole number from 0 to {CONTEXT_SENTENCES}, got {self.sentences!r}"
            )

    def __bool__(self) -> bool:
        """Whether there is, or may be, anything to tell."""
        return bool(self.text.strip() or self.sentences)


@dataclass(frozen=True)
class StreamConfig:
    """How one stream is heard and translated; every option is per stream.

    Args:
        source: ISO 639-1 code of the spoken language, or of several that may be spoken, with commas between
            them; ``auto`` for all that the model knows.
        targets: codes of the languages to translate into, in the order in which they are decoded.
        audio: how the audio bytes are to be read.
        partials: whether to send text before its utterance has ended.
        partial_interval: seconds of audio between two hypotheses of a running utterance.
        policy: when text becomes stable.
        window: most seconds of audio that the decoder looks at, at least 4: in speech that goes on longer,
            what is certain becomes an utterance of its own.
        word_times: whether final transcripts say when each word was spoken.
        context: what the model is told before the audio of each utterance, if it was made for that.
        glossary: terms as they are to be spelled and translated (:mod:`pipeline.glossary`).
        max_new_tokens: longest text, in tokens, of one hypothesis for one utterance.
        beams: how many texts go on beside each other where a final text is decoded, 1 to 16; other texts are
            decoded greedily, as all are with 1.
        gate: when speech starts and ends.

    Raises:
        ValueError: a window that is too short, a glossary that is none, or other beams.
    """

    source: str = "es"
    targets: tuple[str, ...] = ("en",)
    audio: AudioFormat = AudioFormat()
    partials: bool = True
    partial_interval: float = 0.64
    policy: PolicyConfig = PolicyConfig()
    window: float = 28.0
    word_times: bool = False
    context: ContextConfig = ContextConfig()
    glossary: tuple[Entry, ...] = ()
    max_new_tokens: int = 256
    beams: int = 1
    gate: GateConfig = GateConfig()

    def __post_init__(self) -> None:
        if not 4 <= self.window < float("inf"):
            raise ValueError(f"window must be a number from 4 up, got {self.window!r}")
        check_glossary(self.glossary)
        if self.beams not in range(1, MOST_BEAMS + 1):
            raise ValueError(f"beams must be a whole number from 1 to {MOST_BEAMS}, got {self.beams!r}")
