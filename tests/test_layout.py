"""The tree: every source module has its test module, and imports go where the contracts let them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("kernels", "pipeline", "workers")
    for path in (ROOT / package).rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_is_tested_by_its_twin(module: Path):
    assert (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_can_be_read_in_one_sitting(module: Path):
    assert len((ROOT / module).read_text("utf-8").splitlines()) <= 450


def test_every_page_can_be_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    pages = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]

    assert pages
    assert [page for page in pages if f"({page})" not in readme] == []


def test_import_contracts_hold():
    """In a process of its own: the linter turns off every logger that there is."""
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
