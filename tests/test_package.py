"""Public names are complete, loaded lazily and documented; all examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys

import pytest

import mvnjac

PUBLIC = [
    *("jacobian", "Jacobian", "Gaussian", "log_prob", "vech", "unvech", "fit", "Fit", "load", "write_report"),
    *("Dense", "Cholesky", "LogCholesky", "Precision", "PrecisionCholesky", "InverseCholesky"),
    *("ScaleCorrelation", "Isotropic", "Diagonal"),
]
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(mvnjac.__path__, "mvnjac.")
    if not name.endswith("__main__") and ".triton_" not in name  # these need triton, which is optional
]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name: str) -> None:
    assert name in dir(mvnjac)
    assert (getattr(mvnjac, name).__doc__ or "").strip()


def test_importing_the_package_does_not_import_torch() -> None:
    subprocess.run([sys.executable, "-c", "import mvnjac, sys; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.parametrize("use", ["jacobian(x, m, s).matrix()", "log_prob(x, m.requires_grad_(), s).sum().backward()"])
def test_the_compiler_is_imported_only_by_who_compiles(use: str) -> None:
    """torch._dynamo takes as long to import as torch."""
    made = "import sys, torch, mvnjac; x, m, s = torch.ones(1, 2), torch.zeros(2), torch.eye(2)"
    subprocess.run([sys.executable, "-c", f"{made}; mvnjac.{use}; assert 'torch._dynamo' not in sys.modules"], check=True)


def test_triton_is_imported_only_where_it_works() -> None:
    code = """
import sys, torch, mvnjac
from mvnjac.kernels import cuda
assert not cuda.available(torch.ones(1))
mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), torch.eye(2)).matrix()
assert not [name for name in sys.modules if name.startswith("mvnjac.kernels.triton")]
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_errors_can_be_accessed() -> None:
    subprocess.run([sys.executable, "-c", "import mvnjac; mvnjac.errors.ShapeError"], check=True)


def test_no_public_name_is_a_folder_or_file() -> None:
    """Importing a submodule binds its name in the package, which would hide a function of the same name."""
    functions = {name for name in dir(mvnjac) if name not in mvnjac._SUBMODULES}
    assert not functions & {info.name for info in pkgutil.iter_modules(mvnjac.__path__)}


def test_distributions_can_be_accessed() -> None:
    subprocess.run([sys.executable, "-c", "import mvnjac; mvnjac.distributions.MultivariateNormal"], check=True)
    assert "distributions" in dir(mvnjac)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'jacobain'"):
        mvnjac.jacobain  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
