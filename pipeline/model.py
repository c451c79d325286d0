"""Gemma 3n from a checkpoint folder: audio and token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import ple_file
from pipeline.audio.mel import log_mel
from pipeline.audio_stream import AudioStream, Ears, as_samples
from pipeline.batching import answer_tuples, in_parts, run_alone
from pipeline.checkpoint import Checkpoint, locate
from pipeline.config import ModelConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.encoder.streaming import StreamingEncoder
from pipeline.errors import CheckpointError, ContextError
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.bias import choose
from pipeline.gemma.cache import KVCache, KVPool, reserve
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.greedy import Segment, greedy, tell_odds, tell_rankings
from pipeline.gemma.ids import check_ids, end_of_text
from pipeline.gemma.matformer import Widths, check_widths, kv_group
from pipeline.gemma.passes import MOST_POSITIONS, Later, packed
from pipeline.gemma.ple import PerLayerTable
from pipeline.gemma.prompt import Prompt, PromptTemplate
from pipeline.gemma.quick import QuickPasses, suits
from pipeline.gemma.steps import FixedSteps
from pipeline.gemma.tokenizer import Tokenizer
from pipeline.gemma.watch import Lookout
from pipeline.layout import Stage, check, read_parts, slice_config
from pipeline.transfers import to_device


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
        # Of the sub-models that have been used.
        self._groups: dict[Widths | None, Widths] = {}
        self._quick: dict[Widths | None, QuickPasses] = {}

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        ffn_widths: int | Sequence[int] | None = None,
        ple: str | Path | None = None,
        stages: Collection[Stage] = ("encoder", "decoder"),
    ) -> Self:
        """Read a checkpoint in Hugging Face layout.

        Tokenizer files are read when text is first needed. The vision tower's weights are ignored, and so
        are keys and values of layers that share them.

        Args:
            path: a folder with ``config.json`` and ``*.safetensors``, or a Hugging Face id.
            device: where to compute.
            dtype: what to compute in, whatever the file holds; int8, on the CPU, is float32 with weights that
                are rounded to int8 (:mod:`pipeline.int8`).
            ffn_widths: of a MatFormer sub-model, one for all layers or one per layer.
            ple: a file that ``surtitle model convert-ple`` made of this checkpoint, to take per-layer
                embeddings from; None takes the checkpoint's own, wherever such files lie.
            stages: that it is for: the encoder makes soft tokens, the decoder continues sequences. A part
                that none of them uses takes no memory and cannot be used.

        Raises:
            ValueError: int8 is asked for on another device than the CPU.
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
        audio_tower, embed_audio, language_model = read_parts(checkpoint, config, device, dtype, stages)
        if "decoder" in stages:
            own = language_model.embed_tokens_per_layer.weight
            layers = config.text.num_hidden_layers
            values, scales = (own, None) if ple is None else ple_file.read(Path(ple), own, layers)
            language_model.embed_tokens_per_layer = PerLayerTable(config.text, values, scales)
        return cls(folder, config, audio_tower, embed_audio, language_model)

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
        weight = self.embed_audio.embedding_projection.weight
        mel = torch.from_numpy(log_mel(as_samples(waveform))).to(weight.device, weight.dtype)
        tokens: Tensor = self.embed_audio(self.audio_tower(mel[None]))[0]
        return tokens.float()

    def audio_stream(self) -> AudioStream:
        """A new stream of audio, to be encoded as it arrives."""
        return AudioStream(self.ears)

    @torch.inference_mode()
    def logits(
        self, token_ids: Sequence[int], audio: Tensor | None = None, *, ffn_widths: Widths | None = None
    ) -> Tensor:
        """Logits of every position of one sequence.

        Args:
            token_ids: with the audio soft-token id wherever a soft token goes.
            audio: soft tokens, [n, text_hidden]; None for none.
            ffn_widths: of a MatFormer sub-model, as :mod:`pipeline.gemma.matformer` has them; None for the
                whole model.

        Returns:
            Float32 [t, vocab].

        Raises:
            ValueError: there are more or fewer soft tokens than places for them, or ids that the model has
                no embedding for.
            CheckpointError: the model has no such sub-model.
        """
        ids = torch.as_tensor(token_ids, dtype=torch.long, device="cpu")[None]
        check_ids(self.config, token_ids, audio)
        self._group(ffn_widths)
        hidden = self.language_model.hidden(ids, self.embed(ids, audio), ffn_widths=ffn_widths)
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

    def new_pool(self, positions: int = 0) -> KVPool:
        """Room for the caches of sequences that are to be computed in one batch, by one thread.

        Args:
            positions: of all sequences together, to start with.
        """
        weight = self.language_model.embed_tokens.weight
        return KVPool(self.config.text, weight.dtype, weight.device, positions)

    def new_cache(self, pool: KVPool | None = None, limit: int | None = None) -> KVCache:
        """The cache of an empty sequence.

        Args:
            pool: where it is; None for one of its own.
            limit: most positions; None for as many as the model was made for.
        """
        most = self.config.text.max_position_embeddings
        return KVCache(pool or self.new_pool(), most if limit is None else min(limit, most))

    def extend(
        self,
        cache: KVCache,
        token_ids: Sequence[int],
        audio: Tensor | None = None,
        *,
        ffn_widths: Widths | None = None,
    ) -> None:
        """Append tokens to a sequence without asking for logits, which spares the layers that share KV.

        Args:
            cache: the sequence so far.
            token_ids: as in :meth:`logits`; none at all is accepted.
            audio: soft tokens, [n, text_hidden].
            ffn_widths: as in :meth:`logits`.

        Raises:
            ValueError: as in :meth:`logits`; or the sub-model computes other keys and values than the one
                that computed the sequence so far.
            CheckpointError: as in :meth:`logits`.
            ContextError: the sequence becomes longer than its limit.
        """
        if len(token_ids):
            (answer,) = self.step([Segment(cache, token_ids, 0, audio, ffn_widths)])
            if isinstance(answer, Exception):
                raise answer

    def greedy(
        self,
        cache: KVCache,
        token_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Collection[int],
        draft: Sequence[int] = (),
        *,
        audio: Tensor | None = None,
        ffn_widths: Widths | None = None,
    ) -> list[int]:
        """Append tokens to a sequence and continue it greedily, as :func:`pipeline.gemma.greedy.greedy` does.

        Raises:
            ValueError: as in :meth:`extend`.
            CheckpointError: as in :meth:`logits`.
            ContextError: the sequence becomes longer than its limit.
        """
        steps = greedy(cache, token_ids, max_new_tokens, stop_ids, draft, audio=audio, ffn_widths=ffn_widths)
        return run_alone(steps, self.step)

    @torch.inference_mode()
    def step(self, works: Sequence[Segment | tuple[Segment, ...]]) -> list[Any]:
        """Append tokens to many sequences in one pass, or one for each MatFormer sub-model among them.

        Args:
            works: segments of different caches of one pool, or tuples of them.

        Returns:
            For each the ``keep`` most likely next ids, none of the vision and audio vocabularies; or instead
            what is wrong with the segment, an error as in :meth:`extend`, which leaves others alone.
        """
        return answer_tuples(works, self._step)

    def _step(self, segments: Sequence[Segment]) -> list[list[int] | Exception]:
        answers: list[list[int] | Exception | Later] = [[] for _ in segments]
        passes: dict[tuple[int, Widths | None, bool], list[tuple[int, Segment]]] = {}
        most = self.most_in_pass
        for at, segment in enumerate(segments):
            try:
                check_ids(self.config, segment.token_ids, segment.audio)
                segment.cache.check(len(segment.token_ids))
                segment.cache.join(self._group(segment.ffn_widths))
            except (ValueError, CheckpointError, ContextError) as error:
                answers[at] = error
                continue
            for number, piece in enumerate(segment.pieces(self.config.audio_token_id, most)):
                # What is more than ids takes the slower way, and nothing else does on its account.
                fixed = self._on_gpu and piece.asks_for_ids and len(piece.token_ids) <= MOST_POSITIONS
                passes.setdefault((number, segment.ffn_widths, fixed), []).append((at, piece))
        for (_, ffn_widths, fixed), asked in sorted(passes.items(), key=lambda item: item[0][0]):
            members = [(at, piece) for at, piece in asked if not isinstance(answers[at], Exception)]
            counts = [len(piece.token_ids) for _, piece in members]
            run: Callable[..., Sequence[list[int] | Later]] = self._fixed_pass if fixed else self._pass
            for part in filter(None, packed(counts) if fixed else [range(len(members))]):
                pieces = [members[number][1] for number in part]
                for number, ids in zip(part, in_parts(pieces, partial(run, ffn_widths)), strict=True):
                    answers[members[number][0]] = ids
        # Asked for only now: while a GPU computed one pass the next was made ready.
        return [answer() if callable(answer) else answer for answer in answers]

    def _fixed_pass(self, ffn_widths: Widths | None, pieces: Sequence[Segment]) -> list[Later]:
        """As :meth:`_pass`, in one of the shapes that a GPU records, which may compute them yet."""
        caches, counts = [piece.cache for piece in pieces], [len(piece.token_ids) for piece in pieces]
        reserve(caches, counts)
        steps = self._fixed_steps(caches[0].pool, ffn_widths)
        if all(piece.is_step(end_of_text(self.config)) for piece in pieces):
            chosen = steps.step(caches, [piece.token_ids[0] for piece in pieces])
        else:
            keeps = [piece.keep for piece in pieces]
            chosen = steps.go_on(caches, counts, keeps, *self._inputs(pieces))
        for cache, count in zip(caches, counts, strict=True):
            cache.advance(count)
        return chosen

    def _inputs(self, pieces: Sequence[Segment]) -> tuple[Tensor, Tensor]:
        """Rows of the per-layer embedding table and embeddings of all pieces, one behind the other."""
        # Ids stay on the CPU, where the table is.
        ids = torch.tensor([[token for piece in pieces for token in piece.token_ids]])
        heard = [piece.audio for piece in pieces if piece.audio is not None]
        embeddings = self.embed(ids, torch.cat(heard) if heard else None)
        return self.language_model.embed_tokens_per_layer(ids, embeddings), embeddings

    def _pass(self, ffn_widths: Widths | None, pieces: Sequence[Segment]) -> list[list[int]]:
        """The most likely next ids behind the last tokens of each piece.

        Everything that takes memory comes before the sequences advance, so that it can be tried again.
        """
        decoder = self.language_model
        caches, counts = [piece.cache for piece in pieces], [len(piece.token_ids) for piece in pieces]
        reserve(caches, counts)
        pool, keeps = caches[0].pool, [piece.keep for piece in pieces]
        rows, embeddings = self._inputs(pieces)
        biases = [bias for piece in pieces for bias in piece.biases()]
        watched = any(piece.watch and piece.keep for piece in pieces)
        if suits(decoder, sum(counts)) and not watched:
            logits = self._quick_passes(ffn_widths).logits(caches, counts, keeps, rows, embeddings)
        else:
            ahead = Ahead.of_sequences(caches, counts, keeps, embeddings.device)
            look = Lookout(ahead) if watched else None
            hidden = decoder.next_hidden(rows, embeddings, pool, ahead, ffn_widths, look=look)
            logits = decoder.logits(hidden[0])[:, : end_of_text(self.config)] if biases else hidden[0]
            if look is not None:
                look.tell([(piece.watch, piece.keep) for piece in pieces])
        tell_odds(pieces, logits)
        chosen = choose(logits, biases)
        tell_rankings(pieces, logits, chosen)
        ids_behind = iter(chosen)
        for cache, count in zip(caches, counts, strict=True):
            cache.advance(count)
        return [list(islice(ids_behind, piece.keep)) for piece in pieces]

    def _fixed_steps(self, pool: KVPool, ffn_widths: Widths | None) -> FixedSteps:
        if ffn_widths not in pool.steps:
            pool.steps[ffn_widths] = FixedSteps(
                self.language_model, pool, end_of_text(self.config), ffn_widths
            )
        return cast(FixedSteps, pool.steps[ffn_widths])

    def _quick_passes(self, ffn_widths: Widths | None) -> QuickPasses:
        if ffn_widths not in self._quick:
            self._quick[ffn_widths] = QuickPasses(self.language_model, end_of_text(self.config), ffn_widths)
        return self._quick[ffn_widths]

    @torch.inference_mode()
    def prepare(
        self, pool: KVPool, sequences: int, positions: int, *, ffn_widths: Widths | None = None
    ) -> None:
        """Record the passes that are to come over a pool, which takes seconds; nothing on a CPU.

        Args:
            pool: that :meth:`new_pool` gave.
            sequences: most of them in a pass.
            positions: of the longest.
            ffn_widths: as in :meth:`logits`.

        Raises:
            CheckpointError: as in :meth:`logits`.
        """
        self._group(ffn_widths)
        if self._on_gpu:
            self._fixed_steps(pool, ffn_widths).prepare(sequences, positions)

    def _group(self, ffn_widths: Widths | None) -> Widths:
        """The group of a sub-model that there is."""
        if ffn_widths not in self._groups:
            if ffn_widths is not None:
                check_widths(self.config.text, ffn_widths)
            self._groups[ffn_widths] = kv_group(self.config.text, ffn_widths)
        return self._groups[ffn_widths]

    def embed(self, ids: Tensor, audio: Tensor | None) -> Tensor:
        """Embeddings of ids on the CPU, [1, N], that have been checked."""
        decoder = self.language_model
        device = decoder.embed_tokens.weight.device
        is_text = ids < end_of_text(self.config)
        if bool(is_text.all()):
            return decoder.embed(to_device(ids, device))
        embeddings = decoder.embed(to_device(torch.where(is_text, ids, 0), device))
        is_soft = ids == self.config.audio_token_id
        if audio is not None:
            soft = to_device(is_soft[0].nonzero()[:, 0], device)
            embeddings[0].index_copy_(0, soft, to_device(audio, device).to(embeddings.dtype))
        hard = (~(is_text | is_soft))[0].nonzero()[:, 0]
        if len(hard):
            embedded = self.embed_audio.hard(to_device(ids[0, hard], device)).to(embeddings.dtype)
            embeddings[0].index_copy_(0, to_device(hard, device), embedded)
        return embeddings

    @property
    def most_in_pass(self) -> int:
        """Most tokens of one sequence that go through the layers at once.

        Short pieces look at fewer keys that their mask then hides; long ones keep an accelerator busy.
        """
        return 512 if self.language_model.embed_tokens.weight.device.type == "cpu" else MOST_POSITIONS

    @property
    def _on_gpu(self) -> bool:
        return self.language_model.embed_tokens.weight.is_cuda

    @cached_property
    def ears(self) -> Ears:
        """Encoder and embedder as streams use them."""
        return Ears(StreamingEncoder(self.audio_tower), self.embed_audio)
