"""What an installed wheel must do, in an environment that holds nothing but it and its dependencies.

    python tools/check_wheel.py kernels|pure

Run by `make wheels`, without a compiler on the PATH.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

import torch

import mvnjac
from mvnjac import kernels

WAYS_IN = ([str(Path(sys.executable).parent / "mvnjac")], [sys.executable, "-m", "mvnjac"])


def printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_package(kind: str) -> None:
    """The installed one is what runs, with or without kernels as its kind says, and it is typed."""
    assert "site-packages" in mvnjac.__file__, mvnjac.__file__
    assert (kernels.why_not() is None) == (kind == "kernels"), kernels.why_not()
    assert resources.files("mvnjac").joinpath("py.typed").is_file()
    assert not list(resources.files("mvnjac").joinpath("kernels").glob("csrc/*")), "sources belong into the sdist alone"
    tags = metadata.distribution("mvnjac").read_text("WHEEL") or ""
    assert ("Root-Is-Purelib: true" in tags) == (kind == "pure"), tags
    assert metadata.version("mvnjac") == mvnjac.__version__
    assert shutil.which("gcc") is None
    assert shutil.which("c++") is None


def check_numbers() -> None:
    """½ (a aᵀ − Σ⁻¹), many rows and few."""
    sigma = torch.tensor([[1.0, 0.5, 0.0], [0.5, 2.0, 0.3], [0.0, 0.3, 1.0]], dtype=torch.float64)
    for n in (1, 1000):
        x = torch.randn(n, 3, dtype=torch.float64)
        J = mvnjac.jacobian(x, torch.zeros(3).double(), sigma)
        a, P = torch.linalg.solve(sigma, x.mT).mT, torch.linalg.inv(sigma)
        torch.testing.assert_close(J["covariance_matrix"], 0.5 * (a[:, :, None] * a[:, None] - P))
        torch.testing.assert_close(J.matrix().sum(0)[:3], a.sum(0))


def check_command_line() -> None:
    """A newcomer's own CSV to a table of scores, by both ways in; the version, and completion."""
    with tempfile.TemporaryDirectory() as folder:
        table, output = Path(folder) / "own.csv", Path(folder) / "scores.csv"
        rows = torch.randn(20, 2).tolist()
        table.write_text("a,b\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
        for way in WAYS_IN:
            assert printed(*way, "--version") == f"mvnjac {mvnjac.__version__}\n"
            printed(*way, "jacobian", str(table), "-o", str(output), "--force")
            header, *scores = csv.reader(output.read_text().splitlines())
            assert header[:2] == ["mean[a]", "mean[b]"], header
            assert len(scores) == 20
    assert "--install-completion" in printed(*WAYS_IN[0], "--help")


if __name__ == "__main__":
    check_package(sys.argv[1])
    check_numbers()
    check_command_line()
    mvnjac.show_config()
