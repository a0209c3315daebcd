"""Warnings about ill-conditioned correlation matrices, and fingerprints of samples."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac.errors import IllConditionedWarning
from mvnjac.statistics.fingerprint import Fingerprint
from mvnjac.statistics.sufficient import SufficientStatistics
from tests.cli.test_cli import run


def dependent(noise: float, n: int = 500) -> torch.Tensor:
    """Columns a, b, c and d = a + b + noise, each in different units."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4))
    x[:, 3] = x[:, 0] + x[:, 1] + noise * x[:, 3]
    return torch.from_numpy(x * [1e3, 1e3, 1e-3, 1e3] + [5, 0, 0, 1])


def said(x: torch.Tensor, structure: str = "dense") -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mvnjac.fit(x, structure, names=list("abcd"))
    assert all(found.filename == __file__ for found in caught)
    return [str(found.message) for found in caught if found.category is IllConditionedWarning]


@pytest.mark.parametrize("structure", ["dense", "cholesky", "precision", "banded-precision:3"])
@pytest.mark.parametrize(("noise", "warns"), [(1.0, False), (1e-4, False), (2e-5, True), (1e-6, True)])
def test_a_fit_warns_of_few_digits(structure: str, noise: float, warns: bool) -> None:
    """Against numpy's κ of the correlation matrix: above 4.5e9 a warning names κ, the digits and the variables."""
    x = dependent(noise)
    singular = np.linalg.svd(((x - x.mean(0)) / x.std(0)).numpy(), compute_uv=False)
    kappa = float(singular[0] / singular[-1]) ** 2
    assert (kappa > 1e-6 / 2.2e-16) == warns
    found = said(x, structure)
    assert len(found) == warns
    for message in found:
        assert float(re.search(r"κ = (\S+) leaves", message)[1]) == pytest.approx(kappa, rel=0.1)
        assert f"about {-math.log10(2.2e-16 * kappa):.0f} of 16 digits" in message
        assert re.search(r"'[abd]', '[abd]', '[abd]' are nearly linearly dependent: leave one out", message)
        assert "'c'" not in message


def test_what_has_no_correlations_has_no_warning() -> None:
    x = dependent(1e-7)
    assert not said(x, "diagonal")
    assert not said(x * torch.tensor([1.0, 1e9, 1e-9, 1.0], dtype=torch.float64), "diagonal")


def test_the_command_line_warns_on_standard_error(tmp_path: Path, capsys) -> None:
    x, model = tmp_path / "x.csv", tmp_path / "m.safetensors"
    pd.DataFrame(dependent(1e-6).numpy(), columns=list("abcd")).to_csv(x, index=False)
    code, out, err = run("fit", x, "-o", model, capsys=capsys)
    assert (code, out) == (0, "")
    expected = f"mvnjac: warning: {x}: the correlation matrix is ill-conditioned: κ = "
    assert err.startswith(expected)
    for given in ([], ["--model", model]):
        code, out, err = run("score", x, *given, "--format", "csv", capsys=capsys)
        assert code == 0
        assert err.count(expected) == 1
        assert "warning" not in out
    code, out, err = run("score", x, "-c", "a,b,c", capsys=capsys)
    assert code == 0
    assert "warning" not in err


# --- fingerprints ------------------------------------------------------------------------------------------------------


def fingerprint(x: torch.Tensor, weights: torch.Tensor | None = None) -> Fingerprint:
    sample = SufficientStatistics.of(x, weights, str)
    assert sample is not None
    return Fingerprint.from_json(Fingerprint.of(sample).to_json())


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("far", [0.0, 1e6])
def test_a_sample_is_recognised_in_any_order_and_no_other_is(gaps: bool, far: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator, dtype=torch.float64) + far
    if gaps:
        x = x.masked_fill(torch.rand(120, 5, generator=generator) < 0.1, torch.nan)
    own = fingerprint(x)
    assert own.matches(fingerprint(x[torch.randperm(120, generator=generator)]))
    assert own.matches(fingerprint(torch.cat([x[:60], x[60:]]), torch.ones(120, dtype=torch.float64)))
    one = x.clone()
    one[3, 2] = x.nanmean() + 1.0
    others = [x[:-1], one, x.flip(-1), -x, 2 * x, torch.cat([x[:, :1].flip(0), x[:, 1:]], 1), x[:, :4]]
    assert not any(own.matches(fingerprint(other)) for other in others)
    weights = torch.ones(120, dtype=torch.float64)
    assert not own.matches(fingerprint(x, 2 * weights))
    weights[0], weights[1] = 0.5, 1.5
    assert not own.matches(fingerprint(x, weights))


def test_a_weight_of_two_is_a_row_twice() -> None:
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = torch.ones(30, dtype=torch.float64)
    weights[:4] = 2
    assert fingerprint(torch.cat([x, x[:4]])).matches(fingerprint(x, weights))
