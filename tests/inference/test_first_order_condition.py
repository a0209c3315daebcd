"""Results that assume the parameters to be the estimate warn if they are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import optimize

import mvnjac
from mvnjac import inference
from mvnjac.errors import NotAtEstimateWarning
from tests.cli.test_cli import run

N = 400


def rows(d: int = 3, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(N, d, generator=generator, dtype=torch.float64) @ mixing + 3


def estimate(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(0), torch.cov(x.mT, correction=0)


RESULTS: dict[str, Callable[..., Any]] = {
    "covariance_of_estimates": inference.covariance_of_estimates,
    "influence": inference.influence,
    "information_matrix_test": inference.information_matrix_test,
    "scores_covariance": inference.scores_covariance,
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_mean_that_is_off_by_a_share_of_its_standard_error(name: str) -> None:
    """(x̄ − µ) / √(s/n), s the given variance; no other column is beyond the limit."""
    x = rows()
    mean, sigma = estimate(x)
    for share, warns in ((0.09, False), (0.11, True), (3.0, True)):
        moved = mean.clone()
        moved[1] += share * (sigma[1, 1] / N).sqrt()
        J = mvnjac.jacobian(x, moved, sigma, names=["a", "b", "c"])
        if warns:
            with pytest.warns(
                NotAtEstimateWarning, match=rf"{name}: .* move mean\[b\] by {share:.3g} of its standard errors"
            ) as seen:
                RESULTS[name](J)
            assert seen[0].filename == __file__  # the line of the call
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                RESULTS[name](J)


@pytest.mark.parametrize("n", [8, 20, 400])
def test_another_divisor_passes(n: int) -> None:
    """The divisor n − 1 changes variances by 1/√(2n) of a standard error; using half of the rows changes them by more."""
    x = rows()[:n] @ torch.tensor([[1, 1, 1], [0, 1e-3, 0], [0, 0, 1.0]], dtype=torch.float64)
    mean, sigma = estimate(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAtEstimateWarning)
        inference.covariance_of_estimates(mvnjac.jacobian(x, mean, sigma * n / (n - 1)))
    with pytest.warns(NotAtEstimateWarning, match=rf"covariance_matrix\[\d,\d\] by {0.5 * (n / 2) ** 0.5:.3g} of"):
        inference.covariance_of_estimates(mvnjac.jacobian(x, mean, sigma * 2), "expected")  # 1/2 over √(2/n)


def test_weights_of_the_fit() -> None:
    x = rows()
    weights = torch.linspace(0.1, 2, N, dtype=torch.float64) ** 3
    J = mvnjac.fit(x, weights=weights).gaussian.jacobian(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAtEstimateWarning)
        for scale in (1.0, 1e-6):
            inference.covariance_of_estimates(J, weights=weights * scale)
            inference.influence(J, weights=weights * scale)
    gap, deviation = (x.mean(0) - J.model.mean).abs(), (J.model.parameter("covariance_matrix").diagonal() / N).sqrt()
    assert float((gap / deviation).max()) > 0.1
    with pytest.warns(NotAtEstimateWarning):
        inference.covariance_of_estimates(J)
    with pytest.warns(NotAtEstimateWarning, match="influence"):
        inference.influence(J)


@pytest.mark.parametrize(
    "structure",
    ["dense", "diagonal", "isotropic", "toeplitz", "compound-symmetric", "ar:1", "low-rank:1", "kronecker:2x2", "log-cholesky"],
)
@pytest.mark.parametrize("missing", [None, "marginalise"])
def test_fits_are_estimates_and_other_rows_are_not(structure: str, missing: str | None) -> None:
    generator = torch.Generator().manual_seed(5)
    common, specific = (torch.randn(N, k, generator=generator, dtype=torch.float64) for k in (1, 4))
    x = common + specific + 3
    if missing:
        x[::3, 1] = torch.nan
        x[::5, 2:] = torch.nan
    gaussian = mvnjac.fit(x, structure, missing=missing).gaussian
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAtEstimateWarning)
        inference.covariance_of_estimates(gaussian.jacobian(x), "expected")
    with pytest.warns(NotAtEstimateWarning):
        inference.covariance_of_estimates(gaussian.jacobian(1.1 * x), "expected")


def test_each_column_counts_the_rows_that_observe_it() -> None:
    x = rows(2)
    x[100:, 1] = torch.nan
    sigma = torch.diag(torch.tensor([x[:, 0].var(correction=0), x[:100, 1].var(correction=0)], dtype=torch.float64))
    mean = torch.stack([x[:, 0].mean(), x[:100, 1].mean()])
    mean[1] += 0.2 * (sigma[1, 1] / 100).sqrt()
    J = mvnjac.jacobian(x, mean, mvnjac.Diagonal(sigma.diagonal()), missing="marginalise")
    with pytest.warns(NotAtEstimateWarning, match=r"mean\[1\] by 0\.2 of its standard errors"):
        inference.covariance_of_estimates(J, "expected")


def test_known_parameters_do_not_count() -> None:
    x = rows()
    mean, sigma = estimate(x)
    J = mvnjac.jacobian(x, mean + 1, sigma + 1)  # Σ is the estimate at that mean
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAtEstimateWarning)
        inference.covariance_of_estimates(J, "expected", known="mean")
    with pytest.warns(NotAtEstimateWarning):
        inference.covariance_of_estimates(J, "expected")


def test_a_unique_variance_at_its_bound_does_not_count() -> None:
    """A Heywood case by a bounded optimiser: all scores but that of the first unique variance are 0."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    x = torch.stack([x[:, 0], x[:, 0] + 0.2 * x[:, 1], x[:, 0] + x[:, 2] + x[:, 1]], -1)
    mean, sigma = estimate(x)

    def minus_likelihood(theta: Any) -> tuple[float, Any]:
        free = torch.tensor(theta, requires_grad=True)
        model = free[:3].unsqueeze(-1) * free[:3] + torch.diag(free[3:])
        value = 0.5 * N * (torch.logdet(model) + torch.trace(torch.linalg.solve(model, sigma)))
        value.backward()
        return float(value.detach()), free.grad.numpy()

    bounds = [(None, None)] * 3 + [(0.005 * float(variance), None) for variance in sigma.diagonal()]
    start = [0.9, 0.9, 0.9, 0.1, 0.2, 1.0]
    found = optimize.minimize(
        minus_likelihood, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    )
    theta = torch.from_numpy(found.x)
    bounded = [i for i in range(3) if float(theta[3 + i]) <= bounds[3 + i][0] * (1 + 1e-9)]
    assert bounded
    assert found.jac[3 + bounded[0]] > 1  # the likelihood increases below the bound
    J = mvnjac.jacobian(x, mean, mvnjac.LowRank(theta[:3].unsqueeze(-1), theta[3:]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAtEstimateWarning)
        inference.covariance_of_estimates(J, "expected")
        one = mvnjac.BlockDiagonal([J.model.covariance])
        inference.covariance_of_estimates(mvnjac.jacobian(x, mean, one), "expected")
    theta[3:] *= 20  # neither at a bound nor at a maximum
    with pytest.warns(NotAtEstimateWarning, match="cov_diag"):
        inference.covariance_of_estimates(
            mvnjac.jacobian(x, mean, mvnjac.LowRank(theta[:3].unsqueeze(-1), theta[3:])), "expected"
        )


def test_what_the_delta_method_is_told_is_told_once() -> None:
    x = rows()
    mean, sigma = estimate(x)
    with pytest.warns(NotAtEstimateWarning):
        V = inference.covariance_of_estimates(mvnjac.jacobian(x, mean + 1, sigma), "expected")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inference.delta_method(V, lambda theta: theta["mean"].sum())


@pytest.mark.parametrize("command", [["score", "--errors", "hac"], ["report", "-o", "report.html", "--force"]])
def test_the_command_line_shows_the_scores_instead(command: list[str], tmp_path: Path) -> None:
    table = "a,b\n" + "".join(f"{a},{b}\n" for a, b in rows(2)[:60].tolist())
    for name, text in {"x.csv": table, "mean.csv": "a,b\n1,1\n", "sigma.csv": "a,b\n1,0\n0,1\n"}.items():
        (tmp_path / name).write_text(text)
    words = [str(tmp_path / word) if word.endswith(".html") else word for word in command[1:]]
    given = ["--mean", str(tmp_path / "mean.csv"), "--covariance", str(tmp_path / "sigma.csv")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAtEstimateWarning)
        assert run(command[0], str(tmp_path / "x.csv"), *given, *words)[0] == 0
