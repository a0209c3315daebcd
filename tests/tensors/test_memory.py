"""Products never store n×p (measured), and allocations that do not fit raise an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mvnjac
from mvnjac.errors import MemoryLimitError
from mvnjac.kernels import planner
from mvnjac.tensors import memory

ROOT = Path(__file__).resolve().parents[2]

PEAK = """
import sys, torch, mvnjac
from tests.support.peak import peak
torch.set_num_threads(1)
n, d, call = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
x, mean, sigma = torch.randn(n, d).double(), torch.zeros(d).double(), torch.eye(d).double()
p = d + d * (d + 1) // 2
warm = mvnjac.jacobian(x[:50], mean, sigma)
calls = {
    "sum": lambda J: J.sum(),
    "weighted sum": lambda J: J.sum(torch.ones(len(J.log_prob))),
    "matvec": lambda J: J.matvec(torch.ones(p).double()),
    "rmatvec": lambda J: J.rmatvec(torch.ones(J.batch[0]).double()),
    "gram": lambda J: J.gram(),
    "element": lambda J: J.matrix(wrt="covariance_matrix[1,0]"),
}
calls[call](warm)
before = peak()
calls[call](mvnjac.jacobian(x, mean, sigma))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["sum", "weighted sum", "matvec", "rmatvec", "gram", "element"])
def test_products_never_store_n_by_p(call: str) -> None:
    """n×p takes 660 MB here and n×d 16 MB; a few n×d arrays, a p×p array and the chunks are allowed."""
    n, d = (50_000, 40) if call == "gram" else (20_000, 100)
    p = d + d * (d + 1) // 2
    used = int(
        subprocess.run([sys.executable, "-c", PEAK, str(n), str(d), call], check=True, capture_output=True, cwd=ROOT).stdout
    )
    allowed = 6 * n * d * 8 + 40e6 + (3 * p * p * 8 if call == "gram" else 0)
    assert allowed < 0.5 * n * p * 8
    assert used < allowed, f"{call} used {used / 1e6:.0f} MB, allowed {allowed / 1e6:.0f} MB; n×p is {n * p * 8e-6:.0f} MB"


def test_chunks_cover_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(103, 3).double(), torch.rand(103).double()
    J = mvnjac.jacobian(x, torch.zeros(3).double(), torch.eye(3).double())
    expected = J.matrix().mT @ (J.matrix() * w.unsqueeze(-1))
    monkeypatch.setattr(planner, "CHUNK_BYTES", 9 * 8 * 10)
    torch.testing.assert_close(J.gram(w), expected)
    grid = mvnjac.jacobian(x.reshape(1, 103, 1, 3), torch.zeros(3).double(), torch.eye(3).repeat(2, 1, 1).double())
    torch.testing.assert_close(grid.gram(w.reshape(1, 103, 1))[1], expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda J: J.matrix(), r"matrix: the result is 2000 × 65702 .*J\[a:b\] with out="),
        (lambda J: J["covariance_matrix"], r"2000 × 361 × 361"),
        (lambda J: J.unique("covariance_matrix"), "matrix: "),
        (lambda J: J.gram(), "gram: the result is 65702 × 65702 .*34.5 GB"),
    ],
)
def test_error_before_allocating(monkeypatch: pytest.MonkeyPatch, call, says: str) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 500_000_000)
    d = 361
    J = mvnjac.jacobian(torch.zeros(2000, d).double(), torch.zeros(d).double(), torch.eye(d).double())
    with pytest.raises(MemoryLimitError, match=says) as caught:
        call(J)
    assert isinstance(caught.value, MemoryError)


def test_no_error_for_given_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    J = mvnjac.jacobian(torch.zeros(2000, 50).double(), torch.zeros(50).double(), torch.eye(50).double())
    out = torch.empty(2000, 1325).double()
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    J.matrix(out=out)


def test_available_memory_is_known_here() -> None:
    free = memory.available(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
