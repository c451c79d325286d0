"""What tests of all parts share."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

# Wall-clock deadlines fail on a busy machine, not on a wrong program.
settings.register_profile("surtitle", deadline=None, print_blob=True)
settings.load_profile("surtitle")


@pytest.fixture(scope="session")
def espeak_ng() -> None:
    """For tests that have sentences spoken; without espeak-ng they are skipped, in CI they fail."""
    if shutil.which("espeak-ng") is not None:
        return
    missing = "espeak-ng is not installed (Debian and Ubuntu: apt-get install espeak-ng)"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
