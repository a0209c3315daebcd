"""Arguments without variables (d = 0): every function raises a ShapeError with a clear message."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import mvnjac
from mvnjac import distributions
from mvnjac.errors import ShapeError

X, MEAN = torch.zeros(5, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
SIGMA = torch.zeros(0, 0, dtype=torch.float64)
ONE = torch.tensor(1.0, dtype=torch.float64)

CALLS: dict[str, Callable[[], object]] = {
    "log_prob": lambda: mvnjac.log_prob(X, MEAN, SIGMA),
    "log_prob, missing entries": lambda: mvnjac.log_prob(X, MEAN, SIGMA, missing="marginalise"),
    "jacobian": lambda: mvnjac.jacobian(X, MEAN, SIGMA).matrix(),
    "hessian": lambda: mvnjac.hessian(X, MEAN, SIGMA),
    "fisher_information": lambda: mvnjac.fisher_information(MEAN, SIGMA),
    "natural_gradient": lambda: mvnjac.natural_gradient(X, MEAN, SIGMA),
    "Gaussian": lambda: mvnjac.Gaussian(MEAN, SIGMA),
    "MultivariateNormal": lambda: distributions.MultivariateNormal(MEAN, SIGMA),
    "Diagonal": lambda: mvnjac.jacobian(X, MEAN, mvnjac.Diagonal(MEAN)),
    "Isotropic": lambda: mvnjac.jacobian(X, MEAN, mvnjac.Isotropic(ONE)),
    "Toeplitz": lambda: mvnjac.jacobian(X, MEAN, mvnjac.Toeplitz(MEAN)),
    "CompoundSymmetric": lambda: mvnjac.jacobian(X, MEAN, mvnjac.CompoundSymmetric(ONE, 0 * ONE)),
    **{
        f"fit {structure}": lambda structure=structure: mvnjac.fit(X, structure)
        for structure in ("dense", "diagonal", "isotropic", "low-rank:1", "toeplitz", "compound-symmetric", "ar:1", "cholesky")
    },
}


@pytest.mark.parametrize("name", CALLS)
def test_no_variables(name: str) -> None:
    with pytest.raises(ShapeError, match=r"has shape \(.*0,?\): there are no variables\.$"):
        CALLS[name]()


def test_message_of_fit() -> None:
    with pytest.raises(ShapeError, match=r"^fit: x has shape \(5, 0\): there are no variables\.$"):
        mvnjac.fit(X)
