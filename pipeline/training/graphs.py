"""The learner's step as CUDA graphs: small layers spend longer on being launched than on being computed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.learner import DeviceBatch, Learner


class GraphedLearner:
    """Takes a :class:`Learner`'s place in the training loop, on a GPU.

    Each shape of batch and each width of feed-forward gets graphs of its own when it first comes: one of the
    encoder, one of the rest. The CTC loss stands between them, for its lengths lie on the CPU. Batches must
    have their labels padded (``places`` of :meth:`DeviceBatch.of`), or each would be a shape of its own.

    Args:
        learner: on the GPU, in training.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._graphs: dict[Hashable, Any] = {}
        # Graphs that never run within one another share memory; the encoder's waits for its backward pass
        # while those of the rest run.
        self._hearing_pool, self._answering_pool = (torch.cuda.graph_pool_handle() for _ in range(2))
        # Parameters get their gradients on the stream of the training, though graphs are captured on another.
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")

    def __call__(
        self, mel: Tensor, batch: DeviceBatch, ffn_widths: Sequence[int] | None, *, answering: bool = True
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Learner.forward`.

        What is returned is overwritten by the next call, and must be let go of before it.
        """
        hear, answer = None, None
        if mel.shape[1]:
            hear = self._graph(mel.shape, _Hearing, self._hearing_pool, mel)
        if answering:
            inputs: tuple[Tensor, ...] = (batch.token_ids, batch.positions, batch.labels)
            key = (batch.token_ids.shape, batch.positions.shape, ffn_widths and tuple(ffn_widths))
            if key not in self._graphs and hear is not None:
                with torch.no_grad():
                    inputs = (*inputs, hear(mel).requires_grad_())
            part = partial(_Answering, ffn_widths=ffn_widths)
            answer = self._graph(key, part, self._answering_pool, *inputs)
        # Nothing is captured from here on: whatever takes part in a backward pass belongs to the stream that
        # it was made on, and a capture has one of its own.
        nothing = mel.new_zeros(())
        frames = () if hear is None else (hear(mel),)
        spelling = self._learner.spelling_loss(*frames, batch) if frames else nothing
        if answer is None:
            return nothing, spelling
        return answer(batch.token_ids, batch.positions, batch.labels, *frames), spelling

    def _graph(self, key: Hashable, part: Callable[[Learner], nn.Module], pool: Any, *inputs: Tensor) -> Any:
        graph = self._graphs.get(key)
        if graph is None:
            samples = tuple(value.detach().clone().requires_grad_(value.requires_grad) for value in inputs)
            with torch.autocast("cuda", torch.get_autocast_dtype("cuda"), cache_enabled=False):
                graph = torch.cuda.make_graphed_callables(
                    part(self._learner), samples, allow_unused_input=True, pool=pool
                )
            self._graphs[key] = graph
        return graph


class _Hearing(nn.Module):
    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, mel: Tensor) -> Tensor:
        return self.learner.audio_tower.frames(mel)


class _Answering(nn.Module):
    def __init__(self, learner: Learner, ffn_widths: Sequence[int] | None) -> None:
        super().__init__()
        self.learner = learner
        self.ffn_widths = ffn_widths

    def forward(
        self, token_ids: Tensor, positions: Tensor, labels: Tensor, frames: Tensor | None = None
    ) -> Tensor:
        return self.learner.answer_loss(frames, token_ids, positions, labels, ffn_widths=self.ffn_widths)
