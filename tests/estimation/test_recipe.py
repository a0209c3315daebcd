"""The recipe page: common examples have the described errors, and the corrected ones agree with finite differences."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from examples import recipe


def exact(position: str) -> torch.Tensor:
    """(n, k) derivatives of the definition by finite differences with 50 digits, independent of this package and torch."""
    mpmath.mp.dps = 50
    h = mpmath.mpf(10) ** -15

    def density(x, mean, s):
        (s11, s21, s22) = s
        determinant = s11 * s22 - s21**2
        r = [x[0] - mean[0], x[1] - mean[1]]
        quadratic = (s22 * r[0] ** 2 - 2 * s21 * r[0] * r[1] + s11 * r[1] ** 2) / determinant
        return -(2 * mpmath.log(2 * mpmath.pi) + mpmath.log(determinant) + quadratic) / 2

    rows = []
    for row in recipe.X.tolist():
        point = {
            "x": [mpmath.mpf(v) for v in row],
            "mean": [mpmath.mpf(v) for v in recipe.MEAN.tolist()],
            "s": [mpmath.mpf(recipe.SIGMA[i, j].item()) for i, j in ((0, 0), (1, 0), (1, 1))],
        }
        derivatives = []
        for k in range(len(point[position])):
            up, down = ({**point, position: list(point[position])} for _ in range(2))
            up[position][k] += h
            down[position][k] -= h
            derivatives.append(float((density(**up) - density(**down)) / (2 * h)))
        rows.append(derivatives)
    return torch.tensor(rows, dtype=torch.float64)


def test_ours_are_right() -> None:
    torch.testing.assert_close(recipe.by_x(), exact("x"), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(recipe.by_mean(), exact("mean"), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(recipe.by_covariance(), exact("s"), rtol=1e-14, atol=1e-14)


def test_by_x_is_wrong_and_n_times_too_large() -> None:
    wrong = recipe.naive_by_x()
    assert wrong.shape == (3, 3, 2)
    blocks = torch.einsum("nnd->nd", wrong)
    assert float((blocks - exact("x")).abs().max()) > 0.1
    assert int((wrong != 0).sum()) == blocks.numel()  # all else is zeros


def test_by_mean_is_wrong() -> None:
    L_inverse = torch.linalg.inv(torch.linalg.cholesky(recipe.SIGMA))
    expected_mistake = (recipe.X - recipe.MEAN) @ (L_inverse @ L_inverse.mT)
    torch.testing.assert_close(recipe.naive_by_mean(), expected_mistake)
    assert float((recipe.naive_by_mean() - exact("mean")).abs().max()) > 0.1


def test_a_single_observation_fails() -> None:
    with pytest.raises(ValueError, match="not enough values to unpack"):
        recipe.naive_log_prob(recipe.X[0], recipe.MEAN, recipe.SIGMA)
    assert math.isfinite(recipe.mvnjac.jacobian(recipe.X[0], recipe.MEAN, recipe.SIGMA).log_prob)


def test_by_covariance_is_none_and_averaging_halves() -> None:
    assert recipe.naive_by_covariance() is None
    total = exact("s").sum(0)
    full = torch.tensor([[total[0], total[1] / 2], [total[1] / 2, total[2]]])
    averaged = recipe.naive_unique_elements(full)
    torch.testing.assert_close(averaged, torch.stack([total[0], total[1] / 2, total[2]]))  # half of the true derivative


def test_the_script_runs(capsys: pytest.CaptureFixture[str]) -> None:
    recipe.main()
    assert "one row per observation" in capsys.readouterr().out
