"""The public names: complete, lazy, documented; every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import mvnjac

PUBLIC = [
    *("jacobian", "Jacobian", "Gaussian", "log_prob", "vech", "unvech", "fit", "Fit", "load"),
    *("Dense", "Cholesky", "LogCholesky", "Precision", "PrecisionCholesky", "InverseCholesky"),
    *("ScaleCorrelation", "Isotropic", "Diagonal"),
]
MODULES = [name for _, name, _ in pkgutil.walk_packages(mvnjac.__path__, "mvnjac.") if not name.endswith("__main__")]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name: str) -> None:
    assert name in dir(mvnjac)
    assert (getattr(mvnjac, name).__doc__ or "").strip()


def test_importing_the_package_does_not_import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import mvnjac, sys; assert 'torch' not in sys.modules"], check=True)


def test_errors_are_at_hand() -> None:
    subprocess.run([sys.executable, "-c", "import mvnjac; mvnjac.errors.ShapeError"], check=True)


@pytest.mark.parametrize("first", ["mvnjac.gaussian", "mvnjac.jacobian", "mvnjac.log_prob"])
def test_functions_are_not_hidden_by_their_files(first: str) -> None:
    code = f"import {first}, mvnjac; assert callable(mvnjac.jacobian) and callable(mvnjac.log_prob)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_distributions_are_at_hand() -> None:
    subprocess.run([sys.executable, "-c", "import mvnjac; mvnjac.distributions.MultivariateNormal"], check=True)
    assert "distributions" in dir(mvnjac)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'jacobain'"):
        mvnjac.jacobain  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
