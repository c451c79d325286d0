"""WebRTC's voice activity detector, whose state can be written down and taken up again elsewhere.

The detector adapts to everything that it hears, so that a stream which moves to another process has to take
this state along: there is no other way to have the same frames judged alike there. The binding offers none,
but what it holds is one C structure without pointers, ``VadInstT`` of WebRTC's ``vad_core.h``.
"""

from __future__ import annotations

import ctypes
from typing import Any

import webrtcvad

_CHANNELS, _GAUSSIANS = 6, 12


class _State(ctypes.Structure):
    """``VadInstT``, unchanged since 2011."""

    _fields_ = (
        ("vad", ctypes.c_int),
        ("downsampling", ctypes.c_int32 * 4),
        ("from_48_khz", ctypes.c_int32 * 40),
        ("noise_means", ctypes.c_int16 * _GAUSSIANS),
        ("speech_means", ctypes.c_int16 * _GAUSSIANS),
        ("noise_stds", ctypes.c_int16 * _GAUSSIANS),
        ("speech_stds", ctypes.c_int16 * _GAUSSIANS),
        ("frame_counter", ctypes.c_int32),
        ("over_hang", ctypes.c_int16),
        ("num_of_speech", ctypes.c_int16),
        ("index_vector", ctypes.c_int16 * (16 * _CHANNELS)),
        ("low_value_vector", ctypes.c_int16 * (16 * _CHANNELS)),
        ("mean_value", ctypes.c_int16 * _CHANNELS),
        ("upper_state", ctypes.c_int16 * 5),
        ("lower_state", ctypes.c_int16 * 5),
        ("hp_filter_state", ctypes.c_int16 * 4),
        ("over_hang_max_1", ctypes.c_int16 * 3),
        ("over_hang_max_2", ctypes.c_int16 * 3),
        ("individual", ctypes.c_int16 * 3),
        ("total", ctypes.c_int16 * 3),
        ("init_flag", ctypes.c_int),
    )


_INITIALISED = 42
"""``kInitCheck`` of ``vad_core.c``, the value of ``init_flag``."""

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


class Detector(webrtcvad.Vad):  # type: ignore[misc]
    """``webrtcvad.Vad`` that can be pickled and copied.

    Args:
        aggressiveness: WebRTC's mode, 0 (lets most through) to 3.
    """

    def __init__(self, aggressiveness: int) -> None:
        super().__init__(aggressiveness)
        assert self._state.init_flag == _INITIALISED, "webrtcvad's structure has changed"

    @property
    def _state(self) -> _State:
        return _State.from_address(_pointer(self._vad, b"WebRtcVadPtr"))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (bytes(self._state),)


def _restored(state: bytes) -> Detector:
    detector = Detector(0)
    ctypes.memmove(ctypes.addressof(detector._state), state, ctypes.sizeof(_State))
    return detector
