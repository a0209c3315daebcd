"""What waits for the device: nothing but the one look at the numbers that the contract names.

There need be no GPU: the operations that would wait are recorded on the CPU, with `is_on_host` saying that numbers are as far away
as on a device. (On the CPU the library looks at numbers more often, where that saves work.) What the recorder cannot see, such as
`tolist` or `numpy`, fails on the device without numbers.
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

#: operations that bring a number to the host, or whose result has a size that only the numbers tell
WAITING = {
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
    "aten::_linalg_eigh",  # it looks by itself whether it came to an end
    "aten::allclose",
    "aten::lift_fresh",  # a tensor made of Python numbers: it is copied to the device
}


#: those that first count the entries of a mask, where the index is one
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
#: those that wait where they go from one device to another
COPYING = {"aten::_to_copy", "aten::copy_"}


class Waits(TorchDispatchMode):
    """Records the operations that would wait for a device, and others that are asked for."""

    def __init__(self, also: Collection[str] = ()) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._sought = {*WAITING, *also}

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        name = function._schema.name
        masked = name in INDEXING and any(t.dtype is torch.bool for t in tree_leaves(arguments[1]) if isinstance(t, Tensor))
        result = function(*arguments, **(keywords or {}))
        copied = name in COPYING and len({t.device for t in tree_leaves((arguments, result)) if isinstance(t, Tensor)}) > 1
        if name in self._sought or masked or copied:
            self.seen.append(name)
        return result


LOOK = "aten::_local_scalar_dense"
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
    """Every structure. One that is a user's function holds tensors of its own, on the CPU: it is on the CPU."""
    return [
        pytest.param(next(structure.samples(d, Maker(seed=1))), id=name)
        for name, structure in sorted(structures().items())
        if name != "Parametric"
    ]


def arguments(sample: Covariance, device: str = "cpu") -> tuple[Tensor, Tensor | None, Covariance]:
    x, mean = Maker(batch=(n,), seed=2).normal(d).to(device), Maker(seed=3).normal(d).to(device)
    return x, None if sample.mean is not None else mean, sample.map(lambda t: t.clone().to(device))


@pytest.fixture
def _far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numbers are never at hand, and no compiled kernel of the CPU's serves."""
    users = [module for name, module in sys.modules.items() if name.startswith("mvnjac.") and "is_on_host" in vars(module)]
    assert len(users) > 5
    for module in users:
        monkeypatch.setattr(module, "is_on_host", lambda t: False)
    with kernels.switched(False):
        yield


def waits(call: Callable[[], object]) -> list[str]:
    with Waits() as recorded:
        call()
    return recorded.seen


@pytest.mark.usefixtures("_far_away")
@pytest.mark.parametrize("sample", cases())
@pytest.mark.parametrize("name", CALLS)
def test_one_look(name: str, sample: Covariance) -> None:
    given = arguments(sample)
    factorises_again = name == "of another parametrisation" and isinstance(sample, mvnjac.PrecisionCholesky)
    assert waits(lambda: CALLS[name](*given)) == [LOOK] * (2 if factorises_again else 1)


@pytest.mark.usefixtures("_far_away")
@pytest.mark.parametrize("sample", cases())
def test_no_look_where_none_is_wanted(sample: Covariance) -> None:
    x, mean, covariance = arguments(sample)
    assert waits(lambda: _both(mvnjac.jacobian(x, mean, covariance, check=False))) == []
    assert waits(lambda: mvnjac.jacobian(x, mean, covariance, check=False).matrix()) == []
    assert waits(lambda: mvnjac.log_prob(x, mean, covariance, check=False)) == []


@pytest.mark.usefixtures("_far_away")
@pytest.mark.parametrize("sample", cases())
def test_a_training_step_looks_once(sample: Covariance) -> None:
    x, mean, covariance = arguments(sample)
    covariance = covariance.map(lambda t: t.requires_grad_())
    assert waits(lambda: mvnjac.log_prob(x, mean, covariance).mean().backward()) == [LOOK]
    assert all(t.grad is not None for t in covariance.parameters.values())


@pytest.mark.usefixtures("_far_away")
def test_a_prepared_model_looks_at_its_parameters_once() -> None:
    x, mean, covariance = arguments(next(mvnjac.Dense.samples(d, Maker(seed=1))))
    model = mvnjac.Gaussian(mean, covariance, check=False)
    model.log_prob(x)
    assert waits(lambda: model.jacobian(x).matrix()) == []


@pytest.mark.usefixtures("_far_away")
def test_bad_numbers_are_still_found() -> None:
    """What the one look is for."""
    x, mean, covariance = arguments(next(mvnjac.Dense.samples(d, Maker(seed=1))))
    assert covariance.parameters["covariance_matrix"][1, 1].neg_() < 0
    with pytest.raises(mvnjac.errors.NotPositiveDefiniteError, match="pivot 2 of 3"):
        mvnjac.log_prob(x, mean, covariance)


@pytest.mark.parametrize("sample", cases())
@pytest.mark.parametrize("name", CALLS)
def test_everything_is_made_where_the_arguments_are(name: str, sample: Covariance) -> None:
    """On a device that holds no numbers, where a tensor of another device meets one of this with an error."""
    given, results = arguments(sample, "meta"), []
    assert waits(lambda: results.append(CALLS[name](*given))) == []
    assert {t.device.type for t in tree_leaves(results)} == {"meta"}


@pytest.mark.usefixtures("_far_away")
@pytest.mark.parametrize("own", [False, True])
def test_no_batch_of_matrices_is_inverted_one_by_one(own: bool) -> None:
    """On a GPU torch's cholesky_inverse calls cuSOLVER once for each matrix of a batch."""
    x, mean, covariance = arguments(next(mvnjac.Dense.samples(d, Maker(seed=1))))
    covariance = covariance.map(lambda t: t.expand(n, d, d).contiguous()) if own else covariance
    with Waits(also={"aten::cholesky_inverse"}) as recorded:
        mvnjac.jacobian(x, mean, covariance).matrix()
    assert recorded.seen == ([LOOK] if own else [LOOK, "aten::cholesky_inverse"])


def test_the_recorder_sees() -> None:
    """Each way of waiting that the list above names is seen for what it is."""
    t = torch.tensor([1.0, 2.0])
    assert waits(lambda: bool(t[0])) == [LOOK]
    assert "aten::index" in waits(lambda: t[t > 1])
    assert waits(lambda: t.clone().index_put_((t > 0,), t.clone())) == ["aten::index_put_"]
    assert waits(lambda: t.to("meta")) == ["aten::_to_copy"]
    assert waits(lambda: torch.empty(2, device="meta").copy_(t)) == ["aten::copy_"]
    assert waits(lambda: torch.linalg.eigh(torch.eye(2))) == ["aten::_linalg_eigh"]
    assert waits(lambda: t.nonzero()) == ["aten::nonzero"]
    assert waits(lambda: torch.equal(t, t)) == ["aten::equal"]
    assert waits(lambda: torch.tensor([1.0])) == ["aten::lift_fresh"]
    assert waits(lambda: torch.linalg.cholesky(torch.eye(2))) == ["aten::_linalg_check_errors"]
    assert waits(lambda: torch.linalg.cholesky_ex(torch.eye(2))) == []
