"""`.plot()` of score processes, tests for breaks, and influence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import mvnjac
from mvnjac import inference
from mvnjac.errors import ArgumentError, NotIdentifiedError

DAYS = [f"day {i:03}" for i in range(300)]


@pytest.fixture(scope="module")
def J() -> mvnjac.Jacobian:
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[180:, 1] *= 2
    return mvnjac.fit(x, names=["a", "b"]).gaussian.jacobian(x)


@pytest.mark.parametrize("test", ["double_max", "sup_lm", "nyblom_hansen"])
def test_a_process_shows_its_test(J: mvnjac.Jacobian, test: str) -> None:
    process = inference.score_process(J, dates=DAYS)
    given = Figure().add_subplot()
    ax = process.plot(given, test=test)
    assert ax is given
    found = getattr(process, test)()
    assert found.date in [text.get_text() for text in ax.texts]
    curve = ax.lines[0].get_ydata()
    statistic = np.mean(curve) if test == "nyblom_hansen" else np.max(curve)
    assert statistic == pytest.approx(found.statistic, rel=1e-9)
    level = found.statistic if test == "nyblom_hansen" else process.critical_value(0.05, test)
    assert any(np.allclose(line.get_ydata(), level) for line in ax.lines)


def test_the_test_of_a_variable_shows_its_own_statistic(J: mvnjac.Jacobian) -> None:
    process = inference.score_process(J, dates=DAYS)
    test = process.by_variable()["b"]
    ax = test.plot()
    assert np.max(ax.lines[0].get_ydata()) == pytest.approx(test.statistic, rel=1e-9)
    narrow = process.sup_lm((0.3, 0.6))
    assert len(narrow.plot().lines[0].get_ydata()) == 91
    assert process.sup_lm(0.3) == dataclasses.replace(process.sup_lm(0.3)).without_process()
    with pytest.raises(NotIdentifiedError, match="no statistic to draw"):
        test.without_process().plot()
    with pytest.raises(ArgumentError, match="test"):
        process.plot(test="cusum")


def test_columns_with_information_at_different_times() -> None:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:90, 1] = torch.nan
    J = mvnjac.fit(x, missing="marginalise").gaussian.jacobian(x)
    test = inference.score_process(J).sup_lm()
    assert np.max(test.plot().lines[0].get_ydata()) == pytest.approx(test.statistic, rel=1e-9)


def test_influence(J: mvnjac.Jacobian) -> None:
    found = inference.influence(J, labels=DAYS)
    ax = found.plot(Figure().add_subplot(), marked=2)
    assert {text.get_text() for text in ax.texts} <= set(found.top(2).labels)
    assert found.top(1).labels[0] in [text.get_text() for text in ax.texts]
    with pytest.raises(ArgumentError, match="marked is -1"):
        found.plot(marked=-1)
