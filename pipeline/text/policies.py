"""The policy that a stream asks for, by its name."""

from __future__ import annotations

from pipeline.config import PolicyConfig
from pipeline.text.agreement import LocalAgreement
from pipeline.text.attention import AlignAtt
from pipeline.text.delay import FixedDelay
from pipeline.text.stability import StabilityPolicy


def new_policy(config: PolicyConfig) -> StabilityPolicy:
    """A policy for one text of one utterance."""
    match config.kind:
        case "delay":
            return FixedDelay(config.delay)
        case "attention":
            return AlignAtt(config.newest)
        case _:
            return LocalAgreement(config.agreement)
