"""Tests and influence take the row labels of a table: dates order a series, and all labels name rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

import mvnjac
from mvnjac import inference

DAYS = pd.date_range("2024-01-01", periods=120)
VALUES = np.random.default_rng(0).normal(size=(120, 2))
VALUES[70:] *= 3.0
FRAME = pd.DataFrame(VALUES, columns=["USD", "CHF"], index=DAYS)
FIT = mvnjac.fit(FRAME)


def test_breaks_are_dated() -> None:
    expected = inference.score_process(mvnjac.jacobian(torch.tensor(VALUES), FIT)).sup_lm()
    for frame in (FRAME, FRAME.sample(frac=1, random_state=1)):  # sorted by the dates
        test = inference.score_process(mvnjac.jacobian(frame, FIT)).sup_lm()
        assert test.statistic == expected.statistic or abs(test.statistic / expected.statistic - 1) < 1e-9
        assert test.date == DAYS[expected.row]
    text = FRAME.set_index(pd.Index([f"firm {i}" for i in range(120)]))
    assert inference.score_process(mvnjac.jacobian(text, FIT)).sup_lm().row == expected.row  # not sorted by text


def test_long_run_covariance_follows_the_dates() -> None:
    J = mvnjac.jacobian(FRAME, FIT)
    shuffled = mvnjac.jacobian(FRAME.sample(frac=1, random_state=1), FIT)
    expected = inference.covariance_of_estimates(J, "hac", lag=3).covariance
    torch.testing.assert_close(inference.covariance_of_estimates(shuffled, "hac", lag=3).covariance, expected)
    single = mvnjac.jacobian(FRAME, FIT)[5:]
    assert list(single.index) == list(DAYS[5:])


def test_influential_rows_have_labels() -> None:
    J = mvnjac.jacobian(FRAME, FIT)
    assert list(inference.influence(J).labels) == list(DAYS)
    assert inference.influence(J, labels=range(120)).labels[3] == 3
    named = mvnjac.jacobian(FRAME.set_index(pd.Index([f"firm {i}" for i in range(120)])), FIT)
    assert inference.influence(named).labels[3] == "firm 3"
    float32 = mvnjac.jacobian(
        torch.tensor(VALUES).float(), FIT.mean.float(), FIT.gaussian.parameter("covariance_matrix").float()
    )
    assert inference.influence(float32).labels[3] == 3


def test_days_are_shown_without_the_time_of_day() -> None:
    influential = inference.influence(mvnjac.jacobian(FRAME, FIT)).top(1)
    assert str(influential.labels[0].date()) in repr(influential)
    assert "00:00" not in repr(influential)
    assert "00:00" not in influential._repr_html_()


def test_parameters_at_a_bound_are_not_the_most_changed() -> None:
    x = np.random.default_rng(1).normal(size=(80, 3))
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    fit = mvnjac.fit(pd.DataFrame(x, columns=list("abc")), "low-rank:1")
    assert fit.boundary
    table = inference.influence(mvnjac.jacobian(torch.tensor(x), fit), information="expected").to_pandas()
    assert not set(table["most_changed"]) & set(fit.boundary)
    assert table["standard_errors"].notna().all()
