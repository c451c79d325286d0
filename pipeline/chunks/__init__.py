"""Samples to voice-gated speech: what is worth encoding, and where utterances begin and end."""
