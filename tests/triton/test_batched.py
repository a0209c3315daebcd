"""Public calls for a batch of Gaussians, one Σ each: one kernel, one synchronisation, and the results of plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import mvnjac
from mvnjac.fused import batched, dense
from mvnjac.kernels import cuda, triton_batched
from tests.kernels.test_kernel_references import definite, normal
from tests.support.tolerance import assert_close, condition
from tests.tensors.test_synchronisation import READ_VALUE, synchronisations

DTYPES = [torch.float64, torch.float32]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of the kernel, whether gradients with respect to Σ were requested."""
    gradients: list[bool] = []
    kernel = triton_batched.small_gaussians

    def recorded(*given: Tensor, gradient: bool, symmetry: float | None) -> object:
        gradients.append(gradient)
        return kernel(*given, gradient=gradient, symmetry=symmetry)

    monkeypatch.setattr(triton_batched, "small_gaussians", recorded)
    return gradients


@pytest.fixture
def _ignored_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the kernels although the recorder of synchronisations is a mode of torch."""
    for module in (dense, batched):
        monkeypatch.setattr(module, "watched", lambda: False)
    monkeypatch.setattr(sys.modules["mvnjac.score.jacobian"], "intercepted", lambda: False)


def data(n: int, d: int, device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    covariance = definite(n, d)
    x, mean, covariance = (
        t.to(device, dtype) for t in (normal(n, d, seed=1), normal(n, d, seed=2), 0.5 * (covariance + covariance.mT))
    )
    return x, mean, covariance


def plainly(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> object:
    with monkeypatch.context() as patch:
        patch.setattr(cuda, "available", lambda *_: False)
        return call()


def everything(x: Tensor, mean: Tensor, covariance: Tensor, **options: bool) -> dict[str, Tensor]:
    J = mvnjac.jacobian(x, mean, covariance, **options)
    results = {"value": J.log_prob, "alone": mvnjac.log_prob(x, mean, covariance, **options), "matrix": J.matrix()}
    return results | {"x": J["x"], **J.sum()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (9, 1), (1, 3), (40, 3), (5, 17), (2, 64)])
def test_values(
    n: int, d: int, dtype: torch.dtype, device: torch.device, calls: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = data(n, d, device, dtype)
    found = everything(*given)
    assert calls == [True, False]
    expected = plainly(monkeypatch, lambda: everything(*given))
    assert calls == [True, False]
    for name, value in expected.items():
        assert_close(found[name], value, condition(given[2]), what=name)


def test_any_strides(device: torch.device, calls: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of wider matrices, a mean shared by all rows, and a transposed Σ."""
    x, mean, covariance = data(6, 3, device)
    given = torch.cat([mean, x], 1)[:, 3:], mean[0].expand(6, 3), covariance.mT
    found = everything(*given)
    assert calls == [True, False]
    for name, value in plainly(monkeypatch, lambda: everything(*given)).items():
        assert_close(found[name], value, condition(covariance), what=name)


@pytest.mark.parametrize(
    "given",
    [
        lambda x, mean, covariance: (x, mean[0], covariance),
        lambda x, mean, covariance: (x, mean, covariance[0]),
        lambda x, mean, covariance: (x[0], mean, covariance),
        lambda x, mean, covariance: (x[:0], mean[:0], covariance[:0]),
        lambda x, mean, covariance: (x, mean, mvnjac.Dense(covariance)),
        lambda x, mean, covariance: (x, mean, covariance.clone().requires_grad_()),
        lambda x, mean, covariance: (x, torch.nn.Parameter(mean), covariance),
    ],
    ids=["one mean", "one Σ", "one x", "no rows", "a structure", "a graph", "a parameter"],
)
def test_cases_of_the_general_path(given: Callable, device: torch.device, calls: list[bool]) -> None:
    everything(*given(*data(4, 2, device)))
    assert not calls


def test_tensors_without_values_do_not_use_the_kernel(device: torch.device) -> None:
    """Fake and meta tensors have no address to pass to a kernel."""
    given = data(4, 2, device)
    assert cuda.available(*given)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in given]
    assert not any(cuda.available(t) for t in fake)
    assert not cuda.available(given[0].to("meta"))


def test_larger_matrices_use_the_general_path(device: torch.device, calls: list[bool]) -> None:
    everything(*data(2, cuda.SMALL + 1, device))
    assert not calls


def test_transforms_do_not_use_the_kernel(device: torch.device, calls: list[bool]) -> None:
    x, mean, covariance = data(4, 2, device)
    torch.func.vmap(mvnjac.log_prob)(x[None], mean[None], covariance[None])
    torch.func.jvp(lambda m: mvnjac.log_prob(x, m, covariance), (mean,), (mean,))
    mvnjac.log_prob(x, mean, covariance, precision="float64")
    mvnjac.log_prob(x, mean, covariance, missing="marginalise")
    assert not calls


@pytest.mark.parametrize(
    "what", ["x", "x at infinity", "mean", "sigma", "its upper half", "asymmetric", "indefinite", "zero", "shape", "dtype"]
)
def test_errors_are_those_of_the_general_path(what: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    x, mean, covariance = data(7, 3, device)
    make_invalid: dict[str, Callable[[], object]] = {
        "x": lambda: x[4, 2].fill_(torch.nan),
        "x at infinity": lambda: x[4, 2].fill_(torch.inf),
        "mean": lambda: mean[6, 0].fill_(-torch.inf),
        "sigma": lambda: covariance[0, 2, 1].fill_(torch.nan),
        "its upper half": lambda: covariance[3, 1, 2].fill_(torch.inf),
        "asymmetric": lambda: covariance[5, 0, 1].add_(1e-3),
        "indefinite": lambda: covariance[2, 2, 2].neg_(),
        "zero": lambda: covariance[2].zero_(),
    }
    given = x, mean, covariance
    if what == "shape":
        given = x, mean[:, :2], covariance
    elif what == "dtype":
        given = x.float(), mean, covariance
    else:
        make_invalid[what]()
    for call in (mvnjac.jacobian, mvnjac.log_prob):

        def message(call: Callable = call) -> str:
            with pytest.raises(mvnjac.MvnjacError) as error:
                call(*given)
            return str(error.value)

        assert message() == plainly(monkeypatch, message)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_asymmetry_within_rounding_is_allowed(scale: float, device: torch.device, calls: list[bool]) -> None:
    """The tolerance is relative to the scales of the variables."""
    x, mean, covariance = data(5, 3, device)
    covariance *= scale
    covariance[..., 0, 1] *= 1 + 1e-13
    mvnjac.log_prob(x, mean, covariance)
    assert calls == [False]
    covariance[..., 0, 1] *= 1 + 1e-3
    with pytest.raises(mvnjac.errors.NotSymmetricError):
        mvnjac.log_prob(x, mean, covariance)


def test_overflow_is_no_error(device: torch.device) -> None:
    """For finite arguments far from the mean the density underflows to 0 and its logarithm is −∞."""
    x, mean, covariance = data(3, 2, device)
    x[1] = 1e200
    assert mvnjac.log_prob(x, mean, covariance).isinf().tolist() == [False, True, False]


def both(x: Tensor, mean: Tensor, covariance: Tensor, check: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    J = mvnjac.jacobian(x, mean, covariance, check=check)
    return J.log_prob, J.sum()


@pytest.mark.usefixtures("_ignored_modes")
@pytest.mark.parametrize("call", [mvnjac.log_prob, both])
def test_one_synchronisation(call: Callable, device: torch.device, calls: list[bool]) -> None:
    given = data(5, 3, device)
    assert synchronisations(lambda: call(*given)) == [READ_VALUE]
    assert synchronisations(lambda: call(*given, check=False)) == []
    assert len(calls) == 2


@pytest.mark.usefixtures("_ignored_modes")
def test_a_natural_gradient_needs_no_other_gradients(device: torch.device, calls: list[bool]) -> None:
    mvnjac.natural_gradient(*data(5, 3, device))
    assert not calls


@pytest.mark.usefixtures("_ignored_modes")
def test_a_repeated_call_does_not_synchronise(device: torch.device, calls: list[bool]) -> None:
    J = mvnjac.jacobian(*data(5, 3, device))
    first = J.sum()["covariance_matrix"]
    expected = first.clone()
    first.zero_()
    again: list[Tensor] = []
    assert synchronisations(lambda: again.append(J.sum()["covariance_matrix"])) == []
    assert torch.equal(again[0], expected)
    assert len(calls) == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_checks_errors_give_nan(dtype: torch.dtype, device: torch.device, calls: list[bool]) -> None:
    x, mean, covariance = data(6, 3, device, dtype)
    expected = everything(x, mean, covariance)
    covariance[2, 1, 1] = -1
    covariance[4, 0, 2] += 1  # not checked: only the lower triangle is read
    found = everything(x, mean, covariance, check=False)
    sound = torch.arange(6, device=device) != 2
    for name, value in found.items():
        assert bool(value[2].isnan().any()), name
        assert_close(
            value[sound], expected[name][sound], condition(expected["covariance_matrix"].new_ones(1, 1)) * 1e3, what=name
        )
    assert calls == [True, False] * 2


@pytest.mark.parametrize("what", [0, 1, 2])
def test_changes_in_place_raise_an_error(what: int, device: torch.device) -> None:
    given = data(5, 3, device)
    J = mvnjac.jacobian(*given)
    given[what].mul_(2)
    for call in (lambda: J.log_prob, J.sum, J.matrix, J.gram, lambda: J["x"]):
        with pytest.raises(mvnjac.errors.ArgumentError, match="changed in place"):
            call()


def test_explain_and_show_config(
    device: torch.device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    J = mvnjac.jacobian(*data(5, 3, device))
    assert "Triton kernel: each Gaussian factorised in registers" in J.explain()
    general = mvnjac.jacobian(*data(5, cuda.SMALL + 1, device)).explain()
    assert "triangles packed by the Triton kernel" in general
    assert "Triton" not in str(plainly(monkeypatch, mvnjac.jacobian(*data(5, cuda.SMALL + 1, device)).explain))
    mvnjac.show_config()
    assert "Triton kernels (CUDA): 3." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "setting", "why"),
    [("", "0", "switched off (MVNJAC_TRITON=0)"), ("import sys; sys.modules['triton'] = None", "1", "triton is not installed")],
    ids=["disabled", "not installed"],
)
def test_plain_torch_is_used_without_triton(before: str, setting: str, why: str) -> None:
    code = f"""
{before}
import sys, torch, mvnjac
J = mvnjac.jacobian(torch.ones(2, 2), torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2))
assert J.sum()["mean"].tolist() == [[1, 1]] * 2
assert "mvnjac.kernels.triton_batched" not in sys.modules
assert "Triton" not in J.explain()
mvnjac.show_config()
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "MVNJAC_TRITON": setting, "MVNJAC_KERNELS": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"Triton kernels (CUDA): none: {why}; plain torch is used" in done.stdout
