"""`Fit.plot` and `plot_correlation`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mvnjac
from mvnjac.errors import ArgumentError, ShapeError, UnknownNameError


@pytest.fixture(scope="module")
def fit() -> mvnjac.Fit:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return mvnjac.fit(x, names=["USD", "CHF", "JPY"])


def intervals(ax: Axes) -> np.ndarray:
    return np.array([line.get_xdata() for line in ax.lines if line.get_gid() == "mvnjac-items"])


def test_the_correlation_matrix(fit: mvnjac.Fit) -> None:
    given = Figure().add_subplot()
    ax = fit.plot(given)
    assert ax is given
    S = fit.covariance.dense()
    R = S / torch.outer(S.diagonal(), S.diagonal()).sqrt()
    np.testing.assert_allclose(ax.collections[0].get_array(), R.numpy()[np.tril_indices(3)], rtol=1e-12)
    for same in (fit, fit.gaussian):
        np.testing.assert_allclose(mvnjac.plot_correlation(same).collections[0].get_array(), ax.collections[0].get_array())


@pytest.mark.parametrize("structure", ["dense", "low-rank:1", "scale-correlation", "ar:1"])
def test_estimates_have_their_intervals(structure: str) -> None:
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 1:] += x[:, :1]
    fit = mvnjac.fit(x, structure, names=list("abcd"))
    ax = fit.plot(kind="estimates")
    found = intervals(ax)
    assert len(found) == len(fit.gaussian.columns())
    errors = fit.standard_errors("mean")["mean"]
    means = torch.stack([fit.mean - 1.959963985 * errors, fit.mean + 1.959963985 * errors], -1)
    np.testing.assert_allclose(found[:4], means.numpy(), rtol=1e-8)
    assert ax.get_yticklabels()[0].get_text() == "mean of a"


def test_estimates_of_other_parametrisations_and_elements(fit: mvnjac.Fit) -> None:
    ax = fit.plot(kind="estimates", wrt=["correlation_matrix[CHF,USD]", "scale"], level=0.5)
    assert ax.get_yticklabels()[0].get_text() == "correlation of USD and CHF"
    assert len(intervals(ax)) == 4
    matrix = torch.randn(60, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert len(intervals(mvnjac.fit(matrix, "kronecker:2x2").plot(kind="estimates", wrt="mean"))) == 4


def test_errors(fit: mvnjac.Fit) -> None:
    with pytest.raises(ArgumentError, match="expected 'correlation' or 'estimates'"):
        fit.plot(kind="pie")
    with pytest.raises(ArgumentError, match="wrt has no meaning"):
        fit.plot(wrt="mean")
    with pytest.raises(ArgumentError, match="level is 95"):
        fit.plot(kind="estimates", level=95)
    with pytest.raises(UnknownNameError, match="no parameter 'sigma'"):
        fit.plot(kind="estimates", wrt="sigma")
    with pytest.raises(ArgumentError, match="got a str; expected a Fit or a Gaussian"):
        mvnjac.plot_correlation("fit")
    with pytest.raises(ShapeError, match="batch dimensions"):
        mvnjac.plot_correlation(mvnjac.Gaussian(torch.zeros(5, 3), torch.eye(3)))
    many = mvnjac.fit(torch.randn(90, 30, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ArgumentError, match="495 estimates are selected, but a chart can show at most 200"):
        many.plot(kind="estimates")


def test_matplotlib_is_imported_only_when_something_is_drawn() -> None:
    code = (
        "import sys, torch, mvnjac\n"
        "from mvnjac import inference\n"
        "x = torch.randn(40, 2, dtype=torch.float64)\n"
        "fit = mvnjac.fit(x)\n"
        "inference.score_process(fit.gaussian.jacobian(x))\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
