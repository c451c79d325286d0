"""The error tree: one base, a stable word for each kind."""

from __future__ import annotations

import pytest

from pipeline import errors


def test_every_error_has_a_code_of_its_own():
    kinds = [
        errors.SurtitleError,
        errors.AudioError,
        errors.LanguageError,
        errors.CheckpointError,
        errors.ContextError,
        errors.UnsupportedError,
        errors.ShortMemoryError,
        errors.ProtocolError,
    ]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert all(issubclass(kind, errors.SurtitleError) for kind in kinds)


@pytest.mark.parametrize("fatal", [True, False])
def test_protocol_error_carries_its_code_and_whether_the_stream_ends(fatal: bool):
    error = errors.ProtocolError("frame of 9 MB; at most 1 MB", code="frame_too_large", fatal=fatal)
    assert (str(error), error.code, error.fatal) == (
        "frame of 9 MB; at most 1 MB",
        "frame_too_large",
        fatal,
    )
    assert errors.ProtocolError.code == "bad_message"
