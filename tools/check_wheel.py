"""Checks of an installed wheel, in an environment with only the wheel and its dependencies.

    python tools/check_wheel.py kernels|pure [--compiler]

Run by `make wheels`, without a compiler on the PATH; with --compiler there may be one.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata, resources
from pathlib import Path

import torch

import mvnjac
from mvnjac import kernels

ENTRY_POINTS = ([str(Path(sysconfig.get_path("scripts")) / "mvnjac")], [sys.executable, "-m", "mvnjac"])


def printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_package(kind: str) -> None:
    """The installed package is imported, has kernels or not according to its kind, and is typed."""
    assert "site-packages" in mvnjac.__file__, mvnjac.__file__
    assert (kernels.why_not() is None) == (kind == "kernels"), kernels.why_not()
    assert resources.files("mvnjac").joinpath("py.typed").is_file()
    assert not list(resources.files("mvnjac").joinpath("kernels").glob("csrc/*")), "C++ sources belong only in the sdist"
    tags = metadata.distribution("mvnjac").read_text("WHEEL") or ""
    assert ("Root-Is-Purelib: true" in tags) == (kind == "pure"), tags
    assert metadata.version("mvnjac") == mvnjac.__version__


def check_numbers() -> None:
    """The derivative ½ (a aᵀ − Σ⁻¹), for one row and for many."""
    sigma = torch.tensor([[1.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.0, 0.3, 1.0]], dtype=torch.float64)
    for n in (1, 1000):
        x = torch.randn(n, 3, dtype=torch.float64)
        J = mvnjac.jacobian(x, torch.zeros(3).double(), sigma)
        a, P = torch.linalg.solve(sigma, x.mT).mT, torch.linalg.inv(sigma)
        torch.testing.assert_close(J["covariance_matrix"], 0.5 * (a[:, :, None] * a[:, None] - P))
        torch.testing.assert_close(J.matrix().sum(0)[:3], a.sum(0))


def check_command_line() -> None:
    """From a CSV file to a table of scores by both entry points; the version, and completion."""
    with tempfile.TemporaryDirectory() as folder:
        table, output = Path(folder) / "table.csv", Path(folder) / "scores.csv"
        rows = torch.randn(20, 2).tolist()
        table.write_text("a,b\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
        for entry_point in ENTRY_POINTS:
            assert printed(*entry_point, "--version") == f"mvnjac {mvnjac.__version__}\n"
            printed(*entry_point, "jacobian", str(table), "-o", str(output), "--force")
            header, *scores = csv.reader(output.read_text().splitlines())
            assert header[:2] == ["mean[a]", "mean[b]"], header
            assert len(scores) == 20
    assert "--install-completion" in printed(*ENTRY_POINTS[0], "--help")


def check_no_compiler() -> None:
    assert shutil.which("gcc") is None
    assert shutil.which("c++") is None


if __name__ == "__main__":
    check_package(sys.argv[1])
    if "--compiler" not in sys.argv:
        check_no_compiler()
    check_numbers()
    check_command_line()
    mvnjac.show_config()
