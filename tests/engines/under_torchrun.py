"""Checks in two processes under torchrun; at the end, each writes `ok` to a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import mvnjac
from mvnjac.distributed import log_prob, total
from mvnjac.errors import ArgumentError, MvnjacError
from tests.support.tolerance import assert_close, condition


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    d = 5
    root = torch.eye(d).double() + 0.3 * torch.randn(d, d, generator=generator).double()
    x, mean, covariance = torch.randn(103, d, generator=generator).double(), root[0], root @ root.mT
    holes = x.masked_fill(torch.rand(103, d, generator=generator) < 0.3, torch.nan)
    low_rank = mvnjac.LowRank(root[:, :2].contiguous(), torch.ones(d).double())
    kappa = condition(covariance)

    calls = count_all_reduce()
    for cut in (40, 0, 103):  # uneven, and without rows on one process
        at = slice(0, cut) if rank == 0 else slice(cut, None)
        for rows, sigma, missing in (
            (x, covariance, None),
            (x, mvnjac.Cholesky(torch.linalg.cholesky(covariance)), None),
            (x, low_rank, None),
            (holes, covariance, "marginalise"),
        ):
            calls.clear()
            found = total(rows[at], mean, sigma, missing=missing)
            assert len(calls) == 1, "one all_reduce"
            J = mvnjac.jacobian(rows, mean, sigma, missing=missing)
            assert found.rows == 103
            assert_close(found.log_prob, J.log_prob.sum(), kappa, scale=float(J.log_prob.abs().sum()))
            for name, expected in J.sum().items():
                assert_close(found.sum()[name], expected, kappa, what=name, scale=float(J[name].abs().sum(0).max()))

    at = slice(0, 40) if rank == 0 else slice(40, None)
    found = total(x[at], mean, covariance)
    expected = mvnjac.hessian(x, mean, covariance).matrix()
    assert_close(found.hessian().matrix(), expected, kappa**2, what="hessian")
    assert_close(found.fisher_information().matrix(), mvnjac.fisher_information(mean, covariance).matrix(), kappa**2)

    mu, sigma = mean.clone().requires_grad_(), covariance.clone().requires_grad_()
    calls.clear()
    (-2 * log_prob(x[at], mu, sigma)).backward()
    assert len(calls) == 1, "the backward pass does not communicate"
    for gradient, name in ((mu.grad, "mean"), (sigma.grad, "covariance_matrix")):
        J = mvnjac.jacobian(x, mean, covariance)
        assert_close(gradient, -2 * J.sum()[name], kappa, what=name, scale=2 * float(J[name].abs().sum(0).max()))

    mesh = init_device_mesh("cpu", (2,))
    sharded = distribute_tensor(x, mesh, [Shard(0)])
    replicated = DTensor.from_local(x, mesh, [Replicate()])
    for tensor in (sharded, replicated):
        found = total(tensor, DTensor.from_local(mean, mesh, [Replicate()]), covariance)
        assert found.rows == 103
        expected = mvnjac.jacobian(x, mean, covariance).log_prob
        assert_close(found.log_prob, expected.sum(), kappa, scale=float(expected.abs().sum()))
    must_raise(ArgumentError, "shard it by rows", lambda: total(distribute_tensor(x, mesh, [Shard(1)]), mean, covariance))

    spoilt = x[at].clone()
    if rank == 1:
        spoilt[3, 2] = torch.nan
    says = "NaN" if rank == 1 else "the rows of 1 other process"
    must_raise(MvnjacError, says, lambda: total(spoilt, mean, covariance))
    must_raise(ArgumentError, "not positive definite", lambda: total(x[at], mean, -covariance))
    (Path(sys.argv[1]) / f"rank-{rank}").write_text("ok")
    dist.barrier()
    dist.destroy_process_group()
    # A thread of Gloo may still hold a tensor; if it frees it while the interpreter ends, torch aborts the process.
    os._exit(0)


def count_all_reduce() -> list[int]:
    calls, plain = list[int](), dist.all_reduce

    def counted(*arguments, **more):
        calls.append(1)
        return plain(*arguments, **more)

    dist.all_reduce = counted
    return calls


def must_raise(kind, match, call) -> None:
    with pytest.raises(kind, match=match):
        call()


if __name__ == "__main__":
    main()
