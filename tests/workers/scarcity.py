"""Workers with a real model that run out of memory: beyond so many streams in a pass, and for some alone."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakSet

import torch

from pipeline.gemma.quick import QuickPasses
from workers.loading import load_decoder, load_encoder

GREEDY = "en"
"""Streams in this language find no memory to be translated with, even alone."""


def scarce_encoder(checkpoint, room):
    """Encodes no more than ``room`` streams in a pass; for the worker's process."""
    loaded = load_encoder(checkpoint, "cpu", "float32")
    encoder = loaded.carry_out.__self__.encoder
    _limit(encoder.encoder, "reduce", lambda encoded, *_: len(encoded) > room)
    return loaded


def scarce_decoder(checkpoint, room):
    """Decodes no more than ``room`` sequences in a pass; for the worker's process."""
    loaded = load_decoder(checkpoint, "cpu", "float32")
    model = loaded.carry_out.__self__
    greedy, whole, in_pass = WeakSet(), model._pass, []

    def remember(widths, pieces):
        in_pass[:] = [piece.cache for piece in pieces]
        return whole(widths, pieces)

    model._pass = remember

    def too_much(*_):
        return len(in_pass) > room or any(cache in greedy for cache in in_pass)

    # The one at the end of a pass, where the most is at stake: all keys and values have been written.
    _limit(model.language_model, "logits", too_much)
    _limit(QuickPasses, "logits", too_much)

    def open_stream(config):
        stream = loaded.open_stream(config)
        if config.source == GREEDY:
            steps = stream.steps
            stream.steps = lambda event: _marked(steps(event), greedy)
        return stream

    return replace(loaded, open_stream=open_stream)


def _limit(module, name, too_much):
    function = getattr(module, name)

    def limited(*args, **options):
        if too_much(*args):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return function(*args, **options)

    setattr(module, name, limited)


def _marked(steps, caches):
    """The same steps; the sequences that they work on are noted."""
    answer = None
    while True:
        try:
            work = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration as end:
            return end.value
        caches.update(segment.cache for segment in (work if isinstance(work, tuple) else (work,)))
        try:
            answer = yield work
        except Exception as error:
            answer = error
