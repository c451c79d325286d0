"""The tree: every source module has its test module, and imports go where the contracts let them."""

from __future__ import annotations

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

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


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(ROOT)
    broken = lint_imports(no_cache=True)
    assert not broken, capsys.readouterr().out
