"""What tests of all parts share."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# Before torch is there to read it, and for the processes that tests start: models as small as the tests' only
# lose time to a thread pool, and on a machine that does something else besides, a multiple of it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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


@pytest.fixture(scope="session")
def simulstream() -> str:
    """The interpreter that has simulstream's client and scorer: they want no torch, but the package does."""
    python = ROOT / ".make" / "simulstream" / "bin" / "python"
    if python.is_file():
        return str(python)
    missing = "simulstream is not installed; `make simulstream` fetches it"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def recording() -> Path:
    """A bundled Spanish recording of 16 seconds."""
    return ROOT / "examples" / "talk.es.wav"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint of the bundled model's make in miniature, with random weights: it babbles.

    A loud end of turn makes it fall silent after a few words, as a trained model does.
    """
    import torch

    from pipeline.training import vocabulary
    from pipeline.training.__main__ import build, tokenizer_texts
    from pipeline.training.export import export
    from pipeline.training.recipe import TINY, template
    from pipeline.training.text import read_pairs

    folder = tmp_path_factory.mktemp("checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pairs = read_pairs(ROOT / "benchmarks/data/heldout.es-en.tsv.gz", "es")
        tokenizer = vocabulary.train(tokenizer_texts(pairs), TINY.text_tokens)
        learner, raw, _ = build(TINY, tokenizer)
        learner.language_model.embed_tokens.weight.data[tokenizer.token_to_id("<end_of_turn>")] *= 4
    export(learner, raw, tokenizer, template(TINY), folder)
    return folder


@pytest.fixture(scope="session")
def listening_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, said to have been made to be told something before the audio."""
    folder = tmp_path_factory.mktemp("listening") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    template = json.loads((folder / "surtitle.json").read_text(encoding="utf-8"))
    template["context"] = "What is known: {context}"
    (folder / "surtitle.json").write_text(json.dumps(template), encoding="utf-8")
    return folder
