"""`mvnjac.testing.check_structure`: every structure of the library passes, and each kind of fault is found and named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import mvnjac
from mvnjac.covariance import BadInput, Covariance, DiagonalFactor, Entrywise, Maker, checks, structures, vector
from mvnjac.errors import NotPositiveDefiniteError
from mvnjac.testing import check_structure


def samples() -> list[Any]:
    found = []
    for name, cls in structures().items():
        for kind, make, d in (
            ("float64", Maker(seed=1), 4),
            ("one variable", Maker(seed=2), 1),
            ("float32", Maker(torch.float32, seed=3), 3),
            ("batch", Maker(batch=(3,), seed=4), 3),
        ):
            found += [pytest.param(s, d, id=f"{name}-{i}-{kind}") for i, s in enumerate(cls.samples(d, make))]
    return found


@pytest.mark.parametrize(("structure", "d"), samples())
def test_every_structure_conforms(structure: Covariance, d: int) -> None:
    check_structure(structure, d)


class Variances(Covariance):
    """Σ = diag(v): a correct structure, one method of which each fault replaces."""

    fields = {"v": lambda d: vector(d)}

    def __init__(self, v: Tensor) -> None:
        super().__init__(v=v)

    def factor(self, d: int) -> DiagonalFactor:
        return DiagonalFactor(self.parameters["v"])

    @classmethod
    def pullback(cls, name: str, rows: Any) -> Entrywise:
        return Entrywise(0.5 * (rows.scaled**2 - 1 / rows.factor.variance), vector(rows.d))

    def dense(self, d: int | None = None) -> Tensor:
        return torch.diag_embed(self.parameters["v"])

    def fisher(self, factor: DiagonalFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"v": 0.5 * v["v"] / factor.variance**2}

    def fisher_solve(self, factor: DiagonalFactor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"v": 2 * gradients["v"] * factor.variance**2}

    def times(self, factor: DiagonalFactor, v: Tensor) -> Tensor:
        return factor.variance * v

    def checks(self, factor: DiagonalFactor) -> Any:
        yield checks.positive("v", self.parameters["v"])

    @classmethod
    def samples(cls, d: int, make: Maker) -> Any:
        yield cls(make.positive(d))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Any:
        yield BadInput({"v": make.tensor([1.0, -1.0, 2.0])}, NotPositiveDefiniteError, "is -1.0; it must be positive")


def pullback_without_the_constant(cls: type, name: str, rows: Any) -> Entrywise:
    return Entrywise(0.5 * rows.scaled**2, vector(rows.d))


def pullback_at_one_row(cls: type, name: str, rows: Any) -> Entrywise:
    correct = Variances.pullback(name, rows).values
    return Entrywise(torch.cat([correct[:1], -correct[1:]]), vector(rows.d))


def upper_part(self: Variances, d: int | None = None) -> Tensor:
    return torch.diag_embed(self.parameters["v"]) + 0.1 * torch.ones(3, 3).double().triu(1)


def other_samples(cls: type, d: int, make: Maker) -> Any:
    yield mvnjac.Diagonal(make.positive(d))


def another_message(cls: type, make: Maker) -> Any:
    yield BadInput({"v": make.tensor([-1.0] * 3)}, NotPositiveDefiniteError, "zero")


#: what is replaced, and what the error must say
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "factor of another Σ": ({"factor": lambda self, d: DiagonalFactor(2 * self.parameters["v"])}, "log_det"),
    "pullback": ({"pullback": classmethod(pullback_without_the_constant)}, r"sum\(\)\['v'\] is "),
    "pullback at some rows": ({"pullback": classmethod(pullback_at_one_row)}, r"\['v'\]"),
    "asymmetric dense": ({"dense": upper_part}, "transpose"),
    "indefinite dense": ({"dense": lambda self, d=None: torch.diag_embed(-self.parameters["v"])}, "not positive definite"),
    "shape of dense": ({"dense": lambda self, d=None: self.parameters["v"]}, r"has shape \(3,\); expected \(3, 3\)"),
    "times": ({"times": lambda self, factor, v: v}, r"times\(factor, v\) is "),
    "fisher": ({"fisher": lambda self, factor, v: {"v": v["v"] / factor.variance**2}}, r"fisher_information\(\)\.matrix\(\)"),
    "fisher_solve": ({"fisher_solve": lambda self, factor, g: {"v": g["v"] * factor.variance**2}}, r"solve\(b\)"),
    "checks": ({"checks": lambda self, factor: iter(())}, "was accepted; expected NotPositiveDefiniteError"),
    "samples of another class": ({"samples": classmethod(other_samples)}, "a Diagonal"),
    "message": ({"bad_inputs": classmethod(another_message)}, "expected 'zero' in it"),
}


def test_wrong_arguments() -> None:
    with pytest.raises(mvnjac.errors.ArgumentError, match="got a Tensor; pass an instance of a class of Covariance"):
        check_structure(torch.eye(2))
    with pytest.raises(mvnjac.errors.ArgumentError, match="d is 4, but the structure has 2 variables"):
        check_structure(mvnjac.Diagonal(torch.ones(2)), 4)


def test_a_correct_structure_of_ones_own() -> None:
    check_structure(Variances(torch.tensor([1.0, 2.0, 0.5]).double()))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    methods, says = FAULTS[fault]
    faulty = type("Faulty", (Variances,), methods)
    with pytest.raises(AssertionError, match=rf"Faulty: .*{says}"):
        check_structure(faulty(torch.tensor([1.0, 2.0, 0.5]).double()))


FORMER = [("mvnjac.blocks", "Entrywise"), ("mvnjac.coordinates", "scalar"), ("mvnjac.covariance.diagonal", "DiagonalFactor")]


@pytest.mark.parametrize(("module", "name"), FORMER)
def test_the_former_imports_warn(module: str, name: str) -> None:
    """What the page on structures of one's own imported before stays importable for one release."""
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is deprecated; import {name} from mvnjac.covariance"):
        found = getattr(__import__(module, fromlist=[name]), name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found is getattr(mvnjac.covariance, name)
