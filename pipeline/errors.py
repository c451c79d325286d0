"""Everything Surtitle raises on purpose.

    SurtitleError
    ├── AudioError            the bytes are not audio that can be read
    ├── LanguageError         a language that the model does not know
    ├── CheckpointError       a model folder that cannot be loaded
    ├── UnsupportedError      a setting that the model was not made for
    ├── ContextError          more positions than a sequence may have
    ├── ShortMemoryError      work that finds no memory even alone
    └── ProtocolError         a message that breaks protocol version 1

Each carries one sentence that names what was wrong and what is accepted, fit to be shown to the
person who caused it; :attr:`SurtitleError.code` is the same as a stable ``snake_case`` word for
programs (the ``code`` of the wire protocol's ``error`` event).
"""

from __future__ import annotations


class SurtitleError(Exception):
    """Base of all errors with which Surtitle answers bad input."""

    code = "internal"


class AudioError(SurtitleError):
    """Audio that is empty, corrupt, or in a form that is not accepted."""

    code = "bad_audio"


class LanguageError(SurtitleError):
    """A source or target language outside the ones that the model knows."""

    code = "unknown_language"


class CheckpointError(SurtitleError):
    """A checkpoint folder with missing, superfluous, misshapen or unreadable parts."""

    code = "bad_model"


class UnsupportedError(SurtitleError):
    """A setting of a stream that this model was not made for."""

    code = "unsupported"


class ContextError(SurtitleError):
    """A sequence that would have more positions than there is room for."""

    code = "context_full"


class ShortMemoryError(SurtitleError):
    """Work of one stream for which there is not enough memory, even with nothing beside it."""

    code = "out_of_memory"


class ProtocolError(SurtitleError):
    """A client message that protocol version 1 does not allow.

    Args:
        message: what was wrong and what is accepted.
        code: the word for the ``error`` event.
        fatal: whether the stream has to end because of it.
    """

    code = "bad_message"

    def __init__(self, message: str, *, code: str = "bad_message", fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.fatal = fatal
