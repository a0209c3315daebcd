"""Columns in words, for summaries and reports."""

from __future__ import annotations

import pytest
import torch

import mvnjac

X = torch.zeros(1, 2).double()
CORRELATION = "correlation of USD and CHF"
EYE = torch.eye(2).double()


@pytest.mark.parametrize(
    ("covariance", "wrt", "expected"),
    [
        (EYE, "mean", ["mean of USD", "mean of CHF"]),
        (EYE, None, ["mean of USD", "mean of CHF", "variance of USD", "covariance of USD and CHF", "variance of CHF"]),
        (EYE, "covariance_matrix[CHF,USD]", ["covariance of USD and CHF"]),
        (EYE, "covariance_matrix[CHF,CHF]", ["variance of CHF"]),
        (EYE, ("scale", "correlation_matrix"), ["standard deviation of USD", "standard deviation of CHF", CORRELATION]),
        (EYE, "scale_tril", ["scale_tril[USD,USD]", "scale_tril[CHF,USD]", "scale_tril[CHF,CHF]"]),
        (mvnjac.Diagonal(torch.ones(2).double()), "cov_diag", ["variance of USD", "variance of CHF"]),
        (
            mvnjac.LowRank(torch.ones(2, 1).double(), torch.ones(2).double()),
            ("cov_factor", "cov_diag[CHF]"),
            ["loading of USD on factor 0", "loading of CHF on factor 0", "unique variance of CHF"],
        ),
        (
            mvnjac.BlockDiagonal([mvnjac.Isotropic(torch.tensor(1.0).double()), mvnjac.Dense(EYE[:1, :1])], [1, 1]),
            None,
            ["mean of USD", "mean of CHF", "variance", "variance of CHF"],
        ),
    ],
)  # fmt: skip
def test_descriptions(covariance, wrt, expected) -> None:
    J = mvnjac.jacobian(X, torch.zeros(2).double(), covariance, names=["USD", "CHF"])
    assert J.model.arguments.descriptions(J.selection(wrt)) == expected
    assert len(J.columns(wrt)) == len(expected)


def test_without_names_and_for_matrices() -> None:
    J = mvnjac.jacobian(X, torch.zeros(2).double(), EYE)
    assert J.model.arguments.descriptions(J.selection(None))[3] == "covariance of variable 0 and variable 1"
    K = mvnjac.Kronecker(EYE, EYE)
    J = mvnjac.jacobian(torch.zeros(1, 2, 2).double(), torch.zeros(2, 2).double(), K, names=[["A", "B"], ["1M", "3M"]])
    words = J.model.arguments.descriptions(J.selection(("mean", "row_covariance")))
    assert words[:4] == ["mean of A,1M", "mean of A,3M", "mean of B,1M", "mean of B,3M"]
    assert words[4:] == ["row variance of A", "row covariance of A and B", "row variance of B"]
    full = J.selection("row_covariance", "full")
    assert J.model.arguments.descriptions(full)[1:3] == ["row covariance of B and A", "row covariance of A and B"]
