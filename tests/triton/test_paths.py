"""Public calls use the Triton kernels and agree with plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.samples import Maker
from mvnjac.kernels import cuda, triton_packed
from tests.support.tolerance import assert_close, condition


def cases() -> Iterator:
    for name, structure in sorted(structures().items()):
        for batch in ((), (6,)):
            for index, sample in enumerate(structure.samples(4, Maker(batch=batch, seed=1))):
                yield pytest.param(sample, id=f"{name}-{index}-{len(batch)}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of columns written by each call of the kernel."""
    widths: list[int] = []
    kernel = triton_packed.packed

    def recorded(*arguments: object) -> torch.Tensor:
        result = kernel(*arguments)
        widths.append(result.shape[-1])
        return result

    monkeypatch.setattr(triton_packed, "packed", recorded)
    return widths


def plainly(monkeypatch: pytest.MonkeyPatch, J: mvnjac.Jacobian, wrt: list[str]) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "available", lambda *_: False)
        return J.matrix(wrt)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("sample", list(cases()))
def test_matrix(
    sample: Covariance, missing: bool, device: torch.device, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, mean = Maker(batch=(6,), seed=2).normal(4), Maker(seed=3).normal(4)
    if missing:
        x[0, 1] = x[2, :3] = x[5] = torch.nan
    mean = mean.expand(sample.batch + mean.shape)
    given = None if sample.mean is not None else mean.to(device)
    sample = sample.map(lambda t: t.to(device))
    J = mvnjac.Gaussian(given, sample, missing="marginalise" if missing else None).jacobian(x.to(device))
    wrt = [*sample.fields, "scale_tril", "covariance_matrix", "correlation_matrix"]
    wrt = list(dict.fromkeys(wrt))
    assert_close(J.matrix(wrt), plainly(monkeypatch, J, wrt), condition(sample.dense(4)))
    assert missing or calls.count(10) >= 2


def test_missing_entries_use_the_kernel(device: torch.device, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = Maker(batch=(50,), seed=1).normal(4)
    x[Maker(batch=(50,), seed=2).normal(4) > 0.5] = torch.nan
    covariance = Maker(seed=3).definite(4)
    J = mvnjac.jacobian(x.to(device), torch.zeros_like(x[0]).to(device), covariance.to(device), missing="marginalise")
    for name in ("covariance_matrix", "scale_tril", "correlation_matrix"):
        calls.clear()
        assert_close(J.unique(name), plainly(monkeypatch, J, [name]), condition(covariance), what=name)
        assert calls == [6 if name == "correlation_matrix" else 10]


def test_float32_evaluated_in_float64(device: torch.device, calls: list[int]) -> None:
    x, mean, covariance = (t.float().to(device) for t in (torch.randn(9, 3), torch.zeros(3), Maker(seed=1).definite(3)))
    J = mvnjac.jacobian(x, mean, covariance, precision="float64")
    exact = mvnjac.jacobian(x.double(), mean.double(), covariance.double()).matrix()
    assert J.matrix().dtype == torch.float32
    assert_close(J.matrix().double(), exact.float().double(), 1e8)
    assert calls


@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_transforms_do_not_use_the_kernel(transform: str, device: torch.device, calls: list[int]) -> None:
    """With an autograd graph or under vmap, plain torch is used."""
    x, mean, covariance = torch.randn(5, 3, device=device), torch.zeros(3, device=device), torch.eye(3, device=device)
    if transform == "grad":
        mvnjac.jacobian(x, mean, covariance.requires_grad_()).matrix().sum().backward()
        assert covariance.grad is not None
    else:
        torch.func.vmap(lambda row: mvnjac.jacobian(row, mean, covariance).unique("covariance_matrix"))(x)
    assert not calls
