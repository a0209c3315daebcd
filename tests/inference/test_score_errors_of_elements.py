"""`mvnjac score` gives standard errors of the elements of Σ of a structure, and of other functions of its parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mvnjac
from mvnjac import inference
from tests.cli.test_cli import run


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("structure", ["diagonal", "low-rank:2", "ar:1"])
@pytest.mark.parametrize("kind", ["expected", "sandwich"])
def test_elements_of_the_covariance_have_errors(tmp_path: Path, capsys, structure: str, gaps: bool, kind: str) -> None:
    """The standard errors of `covariance_of_estimates`."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(200, 2)) @ generator.normal(size=(2, 6)) + generator.normal(size=(200, 6))
    if gaps:
        x[generator.random(x.shape) < 0.05] = np.nan
    names = list("abcdef")
    pd.DataFrame(x, columns=names).to_csv(tmp_path / "x.csv", index=False)
    missing = ["--missing", "marginalise"] if gaps else []
    wrt = ["covariance_matrix", "mean", "correlation_matrix[b,a]"]
    options = [*missing, "--structure", structure, "--errors", kind, "--wrt", ",".join(wrt), "--format", "json"]
    code, out, _ = run("score", tmp_path / "x.csv", *options, capsys=capsys)
    assert code == 0
    record = {entry["parameter"]: entry[f"{kind}_error"] for entry in json.loads(out)["parameters"]}
    rows = torch.from_numpy(x)
    estimate = mvnjac.fit(rows, structure, names=names, missing="marginalise" if gaps else None)
    V = inference.covariance_of_estimates(estimate.gaussian.jacobian(rows), kind, wrt=wrt)
    assert list(record) == list(V.columns)
    np.testing.assert_allclose(list(record.values()), V.standard_errors.numpy(), rtol=1e-5, atol=1e-9)
