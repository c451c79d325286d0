"""What clients speak: protocol version 1, and the protocols of other servers as thin dialects of it.

All of them drive the same stream: a dialect turns what its client says into commands and audio of protocol
version 1, and that version's events into what its client understands. It owns no socket and nothing of the
stream.
"""
