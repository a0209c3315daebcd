"""Progress: what is shown where, and that its numbers are true."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import types

import pytest
import torch

import mvnjac
from mvnjac.errors import ArgumentError
from mvnjac.progress import displays, states
from mvnjac.progress.displays import displayed, requested
from mvnjac.progress.states import StageState, duration, fitting
from tests.support.terminal import everything_written, without_sequences

X = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LATE = X.masked_fill(X > 1.5, torch.nan)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(states.time, "monotonic", lambda: self.now)


def stage(total: int | None = None, unit: str = "rows", number: int = 1) -> StageState:
    return StageState("reading", total, unit, number, lambda stage: None)


def test_durations() -> None:
    seconds = (1.23, 9.96, 42, 99.7, 119.6, 200, 7 * 3600)
    assert [duration(s) for s in seconds] == ["1.2 s", "10 s", "42 s", "1 min 40 s", "2 min 0 s", "3 min 20 s", "7 h 0 min"]


def test_rows_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    known, unknown, steps = stage(7125), stage(), stage(10, "steps")
    clock.now += 2
    assert known.pieces() == ["2.0 s"], "nothing is known of the speed yet"
    for each, amount in ((known, 1425), (unknown, 1425), (steps, 5)):
        each.advance(amount)
    assert known.pieces() == ["1,425 of 7,125 rows", "8.0 s left", "712 rows/s"]
    assert unknown.pieces() == ["1,425 rows", "712 rows/s"]
    assert steps.pieces() == ["5 of 10 steps", "2.0 s left"]
    known.advance(5700)
    known.end()
    clock.now += 50
    assert known.pieces() == ["7,125 rows in 2.0 s"]


def test_rows_that_are_known_already_do_not_count_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    resumed = stage(10_000)
    resumed.skip(9_000)
    clock.now += 1
    assert resumed.pieces() == ["9,000 of 10,000 rows"]
    resumed.advance(100)
    assert resumed.pieces() == ["9,100 of 10,000 rows", "9.0 s left", "100 rows/s"]


def test_a_search_shows_the_ratio_on_which_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    search = stage(number=3)
    clock.now += 4
    search.iteration(12, -1234.5678, 3.21e-5, 1e-8, "start 2 of 4")
    pieces = ["pass 3", "score ratio 3.2e-05, target 1e-08", "start 2 of 4", "iteration 12", "log-likelihood -1234.5678"]
    assert search.pieces() == [*pieces, "4.0 s"]
    assert fitting(search.pieces(), 42) == "pass 3, score ratio 3.2e-05, target 1e-08"
    assert fitting(search.pieces(), 3) == "pass 3"


def test_by_default_nothing_is_shown(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displays, "_PAUSE", -1.0)
    for progress in (None, False):
        mvnjac.fit(LATE, missing="marginalise", progress=progress)
    assert capsys.readouterr() == ("", "")


def test_plain_lines(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    mvnjac.fit(LATE, missing="marginalise", progress=True)
    assert capsys.readouterr() == ("", ""), "a quick computation prints nothing"
    monkeypatch.setattr(displays, "_PAUSE", -1.0)
    fit = mvnjac.fit(LATE, missing="marginalise", progress=True)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("starting values: ")
    assert any(re.fullmatch(r"starting values: 9 of 10 steps, [0-9.]+ s left", line) for line in lines)
    last = rf"fitting: score ratio {fit.score_ratio:.1e}, target 1e-08, iteration {fit.iterations}, log-likelihood -\d+.*"
    assert re.fullmatch(last, lines[-1])


def test_a_function_is_called(capsys) -> None:
    calls = []
    fit = mvnjac.fit(LATE, missing="marginalise", progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [("fitting", i) for i in range(fit.iterations + 1)]
    assert calls[-1][2] == fit.log_likelihood
    assert capsys.readouterr() == ("", "")


def test_other_arguments() -> None:
    with pytest.raises(ArgumentError, match="fit: progress is 'yes'; expected True, False, or a function of"):
        mvnjac.fit(X, **{"progress": "yes"})


def test_an_error_passes_through_the_display(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), requested("f", True) as progress, progress.stage("dividing"):
        1 / 0  # noqa: B018


class FakeNotebook:
    """What a display needs of IPython: the outputs that it shows, and their updates."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown = list[str]()
        module, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        vars(module)["get_ipython"] = lambda: types.SimpleNamespace(kernel=object())
        vars(display)["display"] = self.display
        monkeypatch.setitem(sys.modules, "IPython", module)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, content: dict[str, str], raw: bool, display_id: bool) -> FakeNotebook:
        assert raw
        assert display_id
        self.shown.append(content["text/plain"])
        return self

    def update(self, content: dict[str, str], raw: bool) -> None:
        assert raw
        self.shown.append(content["text/plain"])


def test_in_a_notebook(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    notebook = FakeNotebook(monkeypatch)
    with displayed() as progress:
        with progress.stage("reading the rows", 3) as reading:
            reading.advance(3)
        for _ in range(2):
            with progress.stage("passing over the rows"):
                pass
    assert re.fullmatch(
        r"✓ reading the rows: 3 rows in [0-9.]+ s\n✓ passing over the rows: pass 2, [0-9.]+ s", notebook.shown[-1]
    )
    assert len(notebook.shown) < 6, "updates are few"
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_in_a_real_notebook() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = "import torch, mvnjac\nx = torch.randn(400, 8).double()\nx[x > 1.5] = torch.nan\n"
    code += "f = mvnjac.fit(x, missing='marginalise', progress=True)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120).execute()
    outputs = notebook.cells[0].outputs
    assert [each.output_type for each in outputs] == ["display_data"]
    assert "✓ fitting: score ratio" in outputs[0].data["text/plain"]


@pytest.mark.slow
def test_on_a_real_terminal() -> None:
    code = "import torch, mvnjac; x = torch.randn(400, 8).double(); x[x > 1.5] = torch.nan; "
    code += "print(mvnjac.fit(x, missing='marginalise', progress=True).converged)"
    main, other = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=other, env={**os.environ, "COLUMNS": "60"}
    )
    os.close(other)
    seen = everything_written(main)
    assert done.communicate()[0] == b"True\n"
    text = without_sequences(seen).replace("\r", "\n")
    assert "starting values" in text
    assert ", target 1e-08" in text
    assert max(len(line) for line in text.splitlines()) <= 60
    assert seen.rstrip("\r\n").endswith("\x1b[2K"), "the display is removed at the end"
