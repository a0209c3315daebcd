"""Reports that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvnjac.report.html.figures import Chart
from mvnjac.report.html.markup import tag
from tests.cli.test_cli import RETURNS, run
from tests.report.pages import nasty_table


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without charts, for tests of their numbers, texts and errors. The reports that tests share have their charts."""
    monkeypatch.setattr(Chart, "markup", lambda chart: tag("svg", tag("title", chart.caption)))


@pytest.fixture(scope="session")
def ecb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the reference rates, as `make demo` writes it."""
    path = tmp_path_factory.mktemp("ecb") / "ecb_report.html"
    assert run("report", *RETURNS, "-o", path)[0] == 0
    return path


@pytest.fixture(scope="session")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a table whose names are markup, with missing entries and a break."""
    folder = tmp_path_factory.mktemp("nasty")
    table = nasty_table(folder / "x.csv")
    assert run("report", table, "--missing", "marginalise", "-o", folder / "x.html")[0] == 0
    return folder / "x.html"
