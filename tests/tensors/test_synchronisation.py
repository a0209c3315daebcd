"""Device synchronisations: a call synchronises once, to evaluate the checks of its arguments, and never otherwise.

No GPU is needed: operations that would synchronise are recorded on the CPU while `is_on_host` is patched to return False, as
on a device. (On the CPU the library reads values more often, if that saves work.) Synchronisations that the recorder cannot
observe, such as `tolist` or `numpy`, fail on the meta device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mvnjac
from mvnjac import kernels
from mvnjac.covariance import structures
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.samples import Maker

#: operations that copy a value to the host, or whose output size depends on values
SYNCHRONISING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::nonzero_static",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::repeat_interleave.Tensor",
    "aten::_linalg_check_errors",
    "aten::_linalg_eigh",  # it checks its own convergence
    "aten::allclose",
    "aten::lift_fresh",  # a tensor created from Python numbers is copied to the device
}


#: indexing by a mask first counts its entries
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
#: copies synchronise if they go from one device to another
COPYING = {"aten::_to_copy", "aten::copy_"}


class SynchronisationRecorder(TorchDispatchMode):
    """Records the operations that would synchronise with a device, and further operations on request."""

    def __init__(self, also: Collection[str] = ()) -> None:
        super().__init__()
        self.recorded: list[str] = []
        self._names = {*SYNCHRONISING, *also}

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        name = function._schema.name
        masked = name in INDEXING and any(t.dtype is torch.bool for t in tree_leaves(arguments[1]) if isinstance(t, Tensor))
        result = function(*arguments, **(keywords or {}))
        copied = name in COPYING and len({t.device for t in tree_leaves((arguments, result)) if isinstance(t, Tensor)}) > 1
        if name in self._names or masked or copied:
            self.recorded.append(name)
        return result


READ_VALUE = "aten::_local_scalar_dense"
n, d = 40, 3

CALLS: dict[str, Callable[[Tensor, Tensor | None, Covariance], object]] = {
    "matrix": lambda x, mean, covariance: mvnjac.jacobian(x, mean, covariance).matrix(),
    "full": lambda x, mean, covariance: mvnjac.jacobian(x, mean, covariance).matrix(layout="full"),
    "sum": lambda x, mean, covariance: mvnjac.jacobian(x, mean, covariance).sum(),
    "weighted sum": lambda x, mean, covariance: mvnjac.jacobian(x, mean, covariance).sum(torch.ones_like(x[:, 0])),
    "gram": lambda x, mean, covariance: mvnjac.jacobian(x, mean, covariance).gram(),
    "matvec": lambda x, mean, covariance: _products(mvnjac.jacobian(x, mean, covariance)),
    "log_prob": lambda x, mean, covariance: mvnjac.log_prob(x, mean, covariance),
    "value and total": lambda x, mean, covariance: _both(mvnjac.jacobian(x, mean, covariance)),
    "of another parametrisation": lambda x, mean, covariance: mvnjac.jacobian(x, mean, covariance).matrix("scale_tril"),
}


def _both(J: mvnjac.Jacobian) -> tuple[Tensor, dict[str, Tensor]]:
    return J.log_prob, J.sum()


def _products(J: mvnjac.Jacobian) -> tuple[Tensor, Tensor]:
    matrix = J.matrix()
    return J.matvec(matrix.new_ones(matrix.shape[-1])), J.rmatvec(matrix.new_ones(len(matrix)))


def cases() -> list:
    """Every structure except Parametric, whose function holds tensors on the CPU."""
    return [
        pytest.param(next(structure.samples(d, Maker(seed=1))), id=name)
        for name, structure in sorted(structures().items())
        if name != "Parametric"
    ]


def arguments(sample: Covariance, device: str = "cpu") -> tuple[Tensor, Tensor | None, Covariance]:
    x, mean = Maker(batch=(n,), seed=2).normal(d).to(device), Maker(seed=3).normal(d).to(device)
    return x, None if sample.mean is not None else mean, sample.map(lambda t: t.clone().to(device))


@pytest.fixture
def _as_on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that no tensor is in CPU memory, and disable the compiled CPU kernels."""
    users = [module for name, module in sys.modules.items() if name.startswith("mvnjac.") and "is_on_host" in vars(module)]
    assert len(users) > 5
    for module in users:
        monkeypatch.setattr(module, "is_on_host", lambda t: False)
    with kernels.switched(False):
        yield


def synchronisations(call: Callable[[], object]) -> list[str]:
    with SynchronisationRecorder() as recorder:
        call()
    return recorder.recorded


@pytest.mark.usefixtures("_as_on_device")
@pytest.mark.parametrize("sample", cases())
@pytest.mark.parametrize("name", CALLS)
def test_a_call_synchronises_once(name: str, sample: Covariance) -> None:
    given = arguments(sample)
    factorises_again = name == "of another parametrisation" and isinstance(sample, mvnjac.PrecisionCholesky)
    assert synchronisations(lambda: CALLS[name](*given)) == [READ_VALUE] * (2 if factorises_again else 1)


@pytest.mark.usefixtures("_as_on_device")
@pytest.mark.parametrize("sample", cases())
def test_no_synchronisation_without_checks(sample: Covariance) -> None:
    x, mean, covariance = arguments(sample)
    assert synchronisations(lambda: _both(mvnjac.jacobian(x, mean, covariance, check=False))) == []
    assert synchronisations(lambda: mvnjac.jacobian(x, mean, covariance, check=False).matrix()) == []
    assert synchronisations(lambda: mvnjac.log_prob(x, mean, covariance, check=False)) == []


@pytest.mark.usefixtures("_as_on_device")
@pytest.mark.parametrize("sample", cases())
def test_a_training_step_synchronises_once(sample: Covariance) -> None:
    x, mean, covariance = arguments(sample)
    covariance = covariance.map(lambda t: t.requires_grad_())
    assert synchronisations(lambda: mvnjac.log_prob(x, mean, covariance).mean().backward()) == [READ_VALUE]
    assert all(t.grad is not None for t in covariance.parameters.values())


@pytest.mark.usefixtures("_as_on_device")
def test_a_prepared_model_checks_its_parameters_once() -> None:
    x, mean, covariance = arguments(next(mvnjac.Dense.samples(d, Maker(seed=1))))
    model = mvnjac.Gaussian(mean, covariance, check=False)
    model.log_prob(x)
    assert synchronisations(lambda: model.jacobian(x).matrix()) == []


@pytest.mark.usefixtures("_as_on_device")
def test_invalid_values_are_still_detected() -> None:
    x, mean, covariance = arguments(next(mvnjac.Dense.samples(d, Maker(seed=1))))
    assert covariance.parameters["covariance_matrix"][1, 1].neg_() < 0
    with pytest.raises(mvnjac.errors.NotPositiveDefiniteError, match="pivot 2 of 3"):
        mvnjac.log_prob(x, mean, covariance)


@pytest.mark.parametrize("sample", cases())
@pytest.mark.parametrize("name", CALLS)
def test_results_are_on_the_device_of_the_arguments(name: str, sample: Covariance) -> None:
    """On the meta device, where an operation with a tensor of another device raises an error."""
    given, results = arguments(sample, "meta"), []
    assert synchronisations(lambda: results.append(CALLS[name](*given))) == []
    assert {t.device.type for t in tree_leaves(results)} == {"meta"}


@pytest.mark.usefixtures("_as_on_device")
@pytest.mark.parametrize("batched", [False, True])
def test_no_batch_of_matrices_is_inverted_one_by_one(batched: bool) -> None:
    """On a GPU torch.cholesky_inverse calls cuSOLVER once per matrix of a batch."""
    x, mean, covariance = arguments(next(mvnjac.Dense.samples(d, Maker(seed=1))))
    covariance = covariance.map(lambda t: t.expand(n, d, d).contiguous()) if batched else covariance
    with SynchronisationRecorder(also={"aten::cholesky_inverse"}) as recorder:
        mvnjac.jacobian(x, mean, covariance).matrix()
    assert recorder.recorded == ([READ_VALUE] if batched else [READ_VALUE, "aten::cholesky_inverse"])


def test_the_recorder() -> None:
    """Each kind of synchronising operation listed above is recorded."""
    t = torch.tensor([1.0, 2.0])
    assert synchronisations(lambda: bool(t[0])) == [READ_VALUE]
    assert "aten::index" in synchronisations(lambda: t[t > 1])
    assert synchronisations(lambda: t.clone().index_put_((t > 0,), t.clone())) == ["aten::index_put_"]
    assert synchronisations(lambda: t.to("meta")) == ["aten::_to_copy"]
    assert synchronisations(lambda: torch.empty(2, device="meta").copy_(t)) == ["aten::copy_"]
    assert synchronisations(lambda: torch.linalg.eigh(torch.eye(2))) == ["aten::_linalg_eigh"]
    assert synchronisations(lambda: t.nonzero()) == ["aten::nonzero"]
    assert synchronisations(lambda: torch.equal(t, t)) == ["aten::equal"]
    assert synchronisations(lambda: torch.tensor([1.0])) == ["aten::lift_fresh"]
    assert synchronisations(lambda: torch.linalg.cholesky(torch.eye(2))) == ["aten::_linalg_check_errors"]
    assert synchronisations(lambda: torch.linalg.cholesky_ex(torch.eye(2))) == []
