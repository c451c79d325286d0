"""A policy by its name."""

from __future__ import annotations

import pytest

from pipeline.config import POLICIES, PolicyConfig
from pipeline.text.agreement import LocalAgreement
from pipeline.text.attention import AlignAtt
from pipeline.text.delay import FixedDelay
from pipeline.text.policies import new_policy


def test_each_kind_has_its_policy():
    made = {kind: type(new_policy(PolicyConfig(kind))) for kind in POLICIES}

    assert made == {"agreement": LocalAgreement, "delay": FixedDelay, "attention": AlignAtt}


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "luck"},
        {"agreement": 0},
        {"agreement": 2.0},
        {"agreement": True},
        {"delay": -0.1},
        {"delay": "1"},
        {"newest": float("nan")},
    ],
)
def test_values_outside_their_range_are_refused(values):
    with pytest.raises(ValueError, match="policy" if "kind" in values else next(iter(values))):
        PolicyConfig(**values)
