"""Fixtures of the tests of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.engines.tables import Table, small_units, write


@pytest.fixture(scope="package")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return write(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="package")
def undisturbed(table: Table) -> tuple[Path, str]:
    """The scores of the table in small units, without any failure, and their totals."""
    out = table.folder / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        small_units(patch)
        assert run("jacobian", table.data, *table.given, "-o", out, "--workers", 1)[0] == 0
    return out, (out / "_totals.json").read_text()
