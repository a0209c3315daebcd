"""`Fit.summary`, its text, HTML and tables; standard errors by name; what a stored fit contains."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac import inference
from mvnjac.errors import ArgumentError, UnknownNameError

DAYS = pd.date_range("2024-01-01", periods=250)
MIXING = np.array([[1.0, 0.3, 0.2], [0.0, 1.0, 0.4], [0.0, 0.0, 2.0]])
FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(250, 3)) @ MIXING, columns=["USD", "CHF", "JPY"], index=DAYS)
FIT = mvnjac.fit(FRAME)


def test_text() -> None:
    lines = str(FIT.summary()).splitlines()
    assert lines[0].strip() == "Maximum likelihood, Dense covariance"
    assert lines[2].split() == ["rows:", "250", "log-likelihood:", f"{FIT.log_likelihood:.6g}"]
    assert "patterns of observed entries:" in lines[5]
    assert lines[7].split() == ["estimate", "std.", "error", "z", "P>|z|", "[0.025", "0.975]"]
    row = next(line for line in lines if line.startswith("covariance of USD and CHF"))
    values = FIT.to_pandas().loc["covariance_matrix[CHF,USD]"]
    assert row.split()[5:] == [
        f"{values.estimate:.4g}",
        f"{values.standard_error:.4g}",
        f"{values.z:.3f}",
        "<0.0001",
        f"{values.lower:.4g}",
        f"{values.upper:.4g}",
    ]
    assert lines[-1] == "Standard errors: classical, from the expected information."
    assert max(map(len, lines)) <= 90
    start = f"Fit(Dense, 3 variables, 250 rows, log-likelihood {FIT.log_likelihood:.6g}, converged, score_ratio="
    assert repr(FIT).startswith(start)
    assert "\n" not in repr(FIT)


def test_errors_are_those_of_the_inference_functions() -> None:
    J = FIT.gaussian.jacobian(torch.tensor(FRAME.to_numpy()))
    for errors, kind, options in (
        ("classical", "expected", {}),
        ("robust", "sandwich", {}),
        ("hac", "hac", {}),
        ("hac", "hac", {"lag": 3}),
    ):
        for wrt in (None, ["scale", "correlation_matrix"], "covariance_matrix[CHF,USD]"):
            summary = FIT.summary(errors, wrt=wrt, **options)
            expected = inference.covariance_of_estimates(J, kind, wrt=wrt, **options)
            assert summary.columns == tuple(expected.columns)
            torch.testing.assert_close(summary.standard_errors, expected.standard_errors)
            torch.testing.assert_close(summary.values, expected.values)
            torch.testing.assert_close(summary.p_values, expected.p_values)
            torch.testing.assert_close(summary.interval, expected.interval())
    assert "HAC" in FIT.summary("hac", lag=3).errors
    lower, upper = FIT.summary(level=0.5).interval
    torch.testing.assert_close(
        (upper - lower) / FIT.summary().standard_errors, torch.full((9,), 2 * 0.6744897501960817).double()
    )


def test_hac_follows_the_dates() -> None:
    shuffled = FRAME.sample(frac=1, random_state=0)
    expected = FIT.summary("hac", lag=4).standard_errors
    torch.testing.assert_close(mvnjac.fit(shuffled).summary("hac", lag=4).standard_errors, expected)
    without_dates = mvnjac.fit(torch.tensor(shuffled.to_numpy())).summary("hac", lag=4).standard_errors
    assert not torch.allclose(without_dates, expected)


def test_weights_enter_the_robust_errors() -> None:
    weights = torch.arange(250).double() % 3
    fit = mvnjac.fit(FRAME, weights=weights)
    J = fit.gaussian.jacobian(FRAME)
    expected = inference.covariance_of_estimates(J, "sandwich", weights=weights)
    torch.testing.assert_close(fit.summary("robust").standard_errors, expected.standard_errors)


def test_missing_entries_structures_and_bounds() -> None:
    gaps = FRAME.mask(FRAME > 1.5)
    fit = mvnjac.fit(gaps, "low-rank:1", missing="marginalise")
    summary = fit.summary()
    assert dict(summary.heading)["patterns of observed entries"] == "7"
    assert fit.boundary == ["cov_diag[CHF]"]
    assert "At its bound, without a standard error: cov_diag[CHF]." in str(summary)
    row = next(line for line in str(summary).splitlines() if line.startswith("unique variance of CHF"))
    assert row.split()[5:] == ["—"] * 5
    two = mvnjac.fit(torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double(), "low-rank:2")
    table = two.to_pandas()
    assert table.loc["cov_factor[0,0]", "standard_error"] != table.loc["cov_factor[0,0]", "standard_error"]
    assert "identified by a convention" in str(two.summary()) or two.boundary
    kronecker = mvnjac.fit(torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0)).double(), "kronecker:2x3")
    assert len(kronecker.to_pandas()) == 6 + 3 + 6
    assert len(kronecker.standard_errors().to_pandas()) == 6


def test_standard_errors_by_name() -> None:
    series = FIT.standard_errors().to_pandas()
    assert list(series.index) == FIT.gaussian.columns()
    assert series["covariance_matrix[CHF,USD]"] == float(FIT.standard_errors()["covariance_matrix"][1, 0])
    assert list(FIT.standard_errors("scale").to_pandas().index) == ["scale[USD]", "scale[CHF]", "scale[JPY]"]
    assert isinstance(FIT.standard_errors(), dict)


def test_long_summaries_are_folded() -> None:
    wide = mvnjac.fit(torch.randn(100, 12, generator=torch.Generator().manual_seed(0)).double())
    assert "30 more parameters are not shown" in str(wide.summary())
    assert len(wide.to_pandas()) == 90
    assert "12 of 12" not in wide._repr_html_()


def test_a_stored_fit_does_not_contain_the_data(tmp_path) -> None:
    for again in (pickle.loads(pickle.dumps(FIT)), copy.deepcopy(FIT)):
        with pytest.raises(ArgumentError, match=r"need the rows of the fit; pass them, summary\(…, data=x\)"):
            again.summary("robust")
        torch.testing.assert_close(
            again.summary("robust", data=FRAME[["JPY", "CHF", "USD"]]).standard_errors, FIT.summary("robust").standard_errors
        )
        with pytest.raises(ArgumentError, match="the data have been modified since the fit"):
            again.summary("robust", data=FRAME + 1)
    x = torch.tensor(FRAME.to_numpy())
    fit = mvnjac.fit(x)
    x[0] += 1
    with pytest.raises(ArgumentError, match="the data have been modified"):
        fit.summary("hac")


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="errors is 'white'; expected one of 'classical', 'robust', 'hac'"):
        FIT.summary("white")
    with pytest.raises(ArgumentError, match="lag= has no meaning for errors='classical'"):
        FIT.summary(lag=3)
    with pytest.raises(ArgumentError, match="level is 95"):
        FIT.summary(level=95)
    with pytest.raises(UnknownNameError, match="no parameter 'sigma'"):
        FIT.summary(wrt="sigma")


def test_html() -> None:
    frame = pd.DataFrame({"<b>": [1.0, 2.0, 3.0, 7.0], "y": [1.0, 3.0, 2.0, 0.0]})
    fit = mvnjac.fit(frame)
    J = mvnjac.jacobian(frame, fit)
    process = inference.score_process(FIT.gaussian.jacobian(FRAME), wrt="scale")
    shown = {
        "Fit": fit,
        "summary": fit.summary(),
        "Jacobian": J,
        "Hessian": mvnjac.hessian(frame, fit),
        "Fisher": fit.gaussian.fisher_information(),
        "estimates": inference.covariance_of_estimates(J, "expected"),
        "process": process,
        "break": process.sup_lm(),
        "influence": inference.influence(J),
        "ratio": fit.likelihood_ratio_test(mvnjac.fit(frame, "diagonal")),
        "batch": mvnjac.hessian(torch.ones(3, 2), torch.zeros(2), torch.eye(2), reduce=False),
    }
    for name, result in shown.items():
        html = result._repr_html_()
        assert html.count("<table") == html.count("</table>"), name
        assert html.count("<tr") == html.count("</tr>"), name
        assert "<b>" not in html, name
    assert "mean[&lt;b&gt;]" in shown["Jacobian"]._repr_html_()
    assert "4 rows" in shown["Fit"]._repr_html_()
    assert "standard deviation" in shown["Fit"]._repr_html_()
    assert "2024-" in shown["break"]._repr_html_()  # the date of the index
