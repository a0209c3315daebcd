"""mvnjac.distributed: with two processes under torchrun, and in a single process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mvnjac
from mvnjac.errors import ArgumentError
from tests.engines.tables import ROOT


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(ROOT / "tests" / "engines" / "under_torchrun.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0", "rank-1"]


def test_without_other_processes() -> None:
    x, mean, sigma = torch.randn(7, 3).double(), torch.ones(3).double(), 2 * torch.eye(3).double()
    found = mvnjac.distributed.total(x, mean, sigma)
    J = mvnjac.jacobian(x, mean, sigma)
    assert found.rows == 7
    torch.testing.assert_close(found.log_prob, J.log_prob.sum())
    torch.testing.assert_close(found.sum(), J.sum())
    with pytest.raises(ArgumentError, match="x requires a gradient"):
        mvnjac.distributed.log_prob(x.clone().requires_grad_(), mean, sigma)
    with pytest.raises(ArgumentError, match="the Hessian is available for dense covariances"):
        mvnjac.distributed.total(x, mean, mvnjac.LowRank(torch.ones(3, 1).double(), torch.ones(3).double())).hessian()
    theta = torch.tensor([0.3, 0.5]).double().requires_grad_()
    structure = mvnjac.Parametric(lambda t: (t["theta"][0].expand(3), t["theta"][1] * torch.eye(3).double()), {"theta": theta})
    mvnjac.distributed.log_prob(x, None, structure).backward()
    torch.testing.assert_close(theta.grad, mvnjac.jacobian(x, structure).sum()["theta"].detach())
