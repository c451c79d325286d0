"""Gemma 3n from a checkpoint folder: audio and token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import ple_file
from pipeline.audio.mel import MelFrontend, log_mel
from pipeline.checkpoint import Checkpoint, locate
from pipeline.config import ModelConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.encoder.streaming import StreamingEncoder
from pipeline.errors import AudioError
from pipeline.gemma.cache import KVCache
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.ple import PerLayerTable
from pipeline.gemma.prompt import Prompt, PromptTemplate
from pipeline.gemma.tokenizer import Tokenizer
from pipeline.layout import PER_LAYER_TABLE, check, empty_parts, slice_config


class Gemma3n:
    """Encoder, embedder and decoder of one checkpoint, for inference.

    Make one with :meth:`from_pretrained`. It is read only: any number of streams may share it.

    Attributes:
        folder: where it was read from.
        config: its sizes; those of the sub-model if it was read as one.
        audio_tower: log-mel to soft encodings.
        embed_audio: soft encodings, or ids of the audio vocabulary, to embeddings.
        language_model: embeddings to logits. Its per-layer embedding table stays on the CPU, as it is in
            its file, mapped into memory: what is read of it is loaded, and processes share it.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        audio_tower: AudioEncoder,
        embed_audio: MultimodalEmbedder,
        language_model: Decoder,
    ) -> None:
        self.folder = folder
        self.config = config
        self.audio_tower = audio_tower
        self.embed_audio = embed_audio
        self.language_model = language_model

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        ffn_widths: int | Sequence[int] | None = None,
        ple: str | Path | None = None,
    ) -> Self:
        """Read a checkpoint in Hugging Face layout.

        Tokenizer files are read when text is first needed. The vision tower's weights are ignored, and so
        are keys and values of layers that share them.

        Args:
            path: a folder with ``config.json`` and ``*.safetensors``, or a Hugging Face id.
            device: where to compute.
            dtype: what to compute in, whatever the file holds.
            ffn_widths: of a MatFormer sub-model, one for all layers or one per layer.
            ple: a file that ``surtitle model convert-ple`` made of this checkpoint, to take per-layer
                embeddings from; None takes the checkpoint's own, wherever such files lie.

        Raises:
            CheckpointError: there is no such folder; its configuration is not Gemma 3n's; files are missing
                or corrupt; tensors are missing, superfluous or misshapen (it names them); the widths are
                not ones that the checkpoint has; or the per-layer embeddings are not its own.
        """
        folder = locate(path)
        config = ModelConfig.from_pretrained(folder)
        checkpoint = Checkpoint(folder)
        check(checkpoint, config)
        if ffn_widths is not None:
            config = slice_config(config, ffn_widths)
        parts = empty_parts(config)
        for prefix, part in parts.items():
            tensors = {}
            for name, empty in part.state_dict().items():
                full = f"{prefix}.{name}"
                table = full == PER_LAYER_TABLE
                tensors[name] = checkpoint.read(
                    full,
                    shape=empty.shape,
                    dtype=None if table else dtype,
                    device="cpu" if table else device,
                )
            part.load_state_dict(tensors, assign=True)
            part.requires_grad_(False).eval()
        audio_tower, embed_audio, language_model = parts.values()
        assert isinstance(audio_tower, AudioEncoder)
        assert isinstance(embed_audio, MultimodalEmbedder)
        assert isinstance(language_model, Decoder)
        own = language_model.embed_tokens_per_layer.weight
        layers = config.text.num_hidden_layers
        values, scales = (own, None) if ple is None else ple_file.read(Path(ple), own, layers)
        language_model.embed_tokens_per_layer = PerLayerTable(config.text, values, scales)
        return cls(folder, config, audio_tower.to(device), embed_audio, language_model)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer.

        Raises:
            CheckpointError: it has none that can be read.
        """
        return Tokenizer.from_pretrained(self.folder)

    @cached_property
    def prompt(self) -> Prompt:
        """The token ids that stand around the audio.

        Raises:
            CheckpointError: the tokenizer or the template cannot be read.
        """
        return Prompt(self.tokenizer, PromptTemplate.from_pretrained(self.folder))

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-1 codes of the languages that the checkpoint was made for."""
        return PromptTemplate.from_pretrained(self.folder).languages

    @torch.inference_mode()
    def encode_audio(self, waveform: NDArray[np.float32] | Tensor) -> Tensor:
        """Encode a whole recording.

        Where the reference pads soft tokens to a fixed number, this returns the useful ones only.

        Args:
            waveform: float32 [samples] at 16 kHz.

        Returns:
            Soft tokens, float32 [n, text_hidden], one per 160 ms.

        Raises:
            AudioError: the waveform has another shape.
        """
        mel = self._as_mel(log_mel(_samples(waveform)))
        tokens: Tensor = self.embed_audio(self.audio_tower(mel[None]))[0]
        return tokens.float()

    def audio_stream(self) -> AudioStream:
        """A new stream of audio, to be encoded as it arrives."""
        return AudioStream(self)

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int], audio: Tensor | None = None) -> Tensor:
        """Logits of every position of one sequence.

        Args:
            token_ids: with the audio soft-token id wherever a soft token goes.
            audio: soft tokens, [n, text_hidden]; None for as many as there are ids of it, zero.

        Returns:
            Float32 [t, vocab].

        Raises:
            ValueError: there are more or fewer soft tokens than places for them, or ids that the model has
                no embedding for.
        """
        hidden = self._hidden(None, token_ids, audio, keep=len(token_ids))
        return self.language_model.logits(hidden)[0].float()

    def generate(
        self,
        token_ids: Sequence[int],
        audio: Tensor | None = None,
        max_new_tokens: int = 256,
        stop_ids: Collection[int] | None = None,
    ) -> list[int]:
        """Continue one sequence greedily.

        Args:
            token_ids: with the audio soft-token id wherever a soft token goes; at least one.
            audio: soft tokens, [n, text_hidden].
            max_new_tokens: how many to generate at most.
            stop_ids: ids that end the text; None for those of ``config.json``.

        Returns:
            The ids generated, without the one that ended them.

        Raises:
            ValueError: as in :meth:`logits`.
        """
        stop_ids = self.config.eos_token_ids if stop_ids is None else stop_ids
        return self.greedy(self.new_cache(), token_ids, max_new_tokens, stop_ids, audio=audio)

    def new_cache(self) -> KVCache:
        """The cache of an empty sequence."""
        weight = self.language_model.embed_tokens.weight
        return KVCache(self.config.text, weight.dtype, weight.device)

    @torch.inference_mode()
    def extend(self, cache: KVCache, token_ids: Sequence[int], audio: Tensor | None = None) -> None:
        """Append tokens to a sequence without asking for logits, which spares the layers that share KV.

        Args:
            cache: the sequence so far.
            token_ids: as in :meth:`logits`; none at all is accepted.
            audio: soft tokens, [n, text_hidden].

        Raises:
            ValueError: as in :meth:`logits`.
        """
        if len(token_ids):
            self._hidden(cache, token_ids, audio, keep=0)

    @torch.inference_mode()
    def greedy(
        self,
        cache: KVCache,
        token_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Collection[int],
        draft: Sequence[int] = (),
        *,
        audio: Tensor | None = None,
    ) -> list[int]:
        """Append tokens to a sequence and continue it greedily.

        Ids of the vision and audio vocabularies are never generated. A draft is verified in the pass that
        takes in ``token_ids`` (Leviathan et al. 2023, arXiv:2211.17192, with a greedy target): as much of it
        as greedy decoding would have given is accepted, so the result is the same without it.

        Args:
            cache: the sequence so far; afterwards it holds ``token_ids`` and the output too.
            token_ids: as in :meth:`logits`, at least one.
            max_new_tokens: how many to generate at most.
            stop_ids: ids that end the output; they are neither returned nor put into the cache.
            draft: a guess of the output.
            audio: soft tokens, [n, text_hidden].

        Returns:
            The output; shorter than ``max_new_tokens`` only if a stop id ended it.

        Raises:
            ValueError: as in :meth:`logits`.
        """
        if not len(token_ids):
            raise ValueError("greedy decoding needs at least one token to continue")
        guess = list(draft[: max(0, max_new_tokens)])
        start = cache.length + len(token_ids)
        hidden = self._hidden(cache, [*token_ids, *guess], audio, keep=len(guess) + 1)
        choices = self._choose(hidden)
        # Where the draft is first wrong, a stop id in it counting as wrong.
        accepted = next(
            (i for i, token in enumerate(guess) if token != choices[i] or token in stop_ids), len(guess)
        )
        cache.truncate(start + accepted)
        output, choice = guess[:accepted], choices[accepted]
        while len(output) < max_new_tokens and choice not in stop_ids:
            output.append(choice)
            last = len(output) == max_new_tokens
            hidden = self._hidden(cache, [choice], None, keep=0 if last else 1)
            if not last:
                (choice,) = self._choose(hidden)
        return output

    def _choose(self, hidden: Tensor) -> list[int]:
        logits = self.language_model.logits(hidden[0])[:, : self._first_hard_id]
        ids: list[int] = logits.argmax(-1).tolist()
        return ids

    def _hidden(
        self, cache: KVCache | None, token_ids: Sequence[int], audio: Tensor | None, *, keep: int
    ) -> Tensor:
        # Ids stay on the CPU, where the per-layer embedding table is.
        ids = torch.as_tensor(token_ids, dtype=torch.long, device="cpu")[None]
        return self.language_model.hidden(ids, self._embed(ids, audio), keep=keep, cache=cache)

    def _embed(self, ids: Tensor, audio: Tensor | None) -> Tensor:
        config, device = self.config, self.language_model.embed_tokens.weight.device
        is_text = (ids >= 0) & (ids < self._first_hard_id)
        is_soft = ids == config.audio_token_id
        is_hard = ~(is_text | is_soft)
        count = 0 if audio is None else len(audio)
        if int(is_soft.sum()) != count:
            raise ValueError(f"{int(is_soft.sum())} audio soft-token ids for {count} soft tokens")
        embeddings = self.language_model.embed(torch.where(is_text, ids, 0).to(device))
        if audio is not None and count:
            embeddings[is_soft.to(device)] = audio.to(device, embeddings.dtype)
        if is_hard.any():
            hard, offset = ids[is_hard], config.audio.vocab_offset
            if hard.min() < offset or hard.max() >= offset + config.audio.vocab_size:
                raise ValueError(f"ids without an embedding for text or audio: {hard.tolist()}")
            embeddings[is_hard.to(device)] = self.embed_audio.hard(hard.to(device)).to(embeddings.dtype)
        return embeddings

    @property
    def _first_hard_id(self) -> int:
        return min(self.config.vision_vocab_offset, self.config.audio.vocab_offset)

    @cached_property
    def _streaming(self) -> StreamingEncoder:
        return StreamingEncoder(self.audio_tower)

    def _as_mel(self, frames: NDArray[np.float32]) -> Tensor:
        weight = self.embed_audio.embedding_projection.weight
        return torch.from_numpy(frames).to(weight.device, weight.dtype)


class AudioStream:
    """Soft tokens of audio that is still arriving.

    What :meth:`push` and :meth:`flush` return is, concatenated, what :meth:`Gemma3n.encode_audio` returns
    for all of the audio, up to float32 rounding and however it was cut.

    Args:
        model: whose encoder to use.
    """

    def __init__(self, model: Gemma3n) -> None:
        self._model = model
        self._encoder = model._streaming
        self._frontend = MelFrontend()
        self._state = self._encoder.initial_state()

    @torch.inference_mode()
    def push(self, waveform: NDArray[np.float32] | Tensor) -> Tensor:
        """Add samples.

        Args:
            waveform: float32 [samples] at 16 kHz, any number of them.

        Returns:
            The soft tokens that became certain, float32 [n, text_hidden].

        Raises:
            AudioError: the waveform has another shape.
        """
        return self._advance(self._frontend.push(_samples(waveform)))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """End the audio; afterwards the stream is as new.

        Returns:
            The remaining soft tokens, float32 [n, text_hidden].
        """
        tokens = self._advance(self._frontend.flush())
        tail: Tensor = self._model.embed_audio(self._encoder.flush(self._state))
        return torch.cat([tokens, tail.float()])

    def _advance(self, frames: NDArray[np.float32]) -> Tensor:
        encodings = self._encoder.push(self._state, self._model._as_mel(frames))
        tokens: Tensor = self._model.embed_audio(encodings)
        return tokens.float()


def _samples(waveform: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1:
        raise AudioError(f"a waveform must have the shape [samples], got {list(samples.shape)}")
    return samples
