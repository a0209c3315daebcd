"""Structures × columns × missing entries × weights × layouts × operations, at random: right, or an error of the library's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from mvnjac.covariance.samples import Maker
from mvnjac.errors import ArgumentError, MvnjacError, NotPositiveDefiniteError, SingularError
from tests.support.fuzz import OPERATIONS, Case, Textbook, check

STRUCTURES = structures()
LAYOUTS = ("contiguous", "columns", "strided", "expanded")
GAPS = ("none given", "complete", "some", "some", "rows", "all")
WEIGHTS = ("none", "ones", "random", "with zeros", "negative", "all zero")


def _x(n: int, d: int, seed: int, gaps: str, layout: str) -> torch.Tensor:
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=make, dtype=torch.float64)
    if gaps in ("some", "rows", "all"):
        x[torch.rand(n, d, generator=make) < 0.35] = torch.nan
    if gaps == "rows":
        x[::2] = torch.nan
    if gaps == "all":
        x[:] = torch.nan
    if layout == "columns":
        return x.mT.contiguous().mT
    if layout == "strided":
        wide = torch.full((2 * n, 2 * d + 1), 7.0, dtype=torch.float64)
        wide[::2, 1::2] = x
        return wide[::2, 1::2]
    return x[:1].expand(n, d) if layout == "expanded" and n else x


def _weights(kind: str, n: int, seed: int) -> torch.Tensor | None:
    w = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {
        "none": None,
        "ones": torch.ones_like(w),
        "random": w,
        "with zeros": w * (torch.arange(n) % 2),
        "negative": w - 0.5,
        "all zero": 0 * w,
    }[kind]


def draw(data: st.DataObject) -> Case:
    """Any use."""
    d, n, seed = (
        data.draw(st.integers(1, 4), "d"),
        data.draw(st.sampled_from([0, 1, 2, 5, 12, 40]), "n"),
        data.draw(st.integers(0, 99), "seed"),
    )
    name = data.draw(st.sampled_from(sorted(STRUCTURES)), "structure")
    samples = list(STRUCTURES[name].samples(d, Maker(seed=seed))) or list(STRUCTURES[name].samples(3, Maker(seed=seed)))
    d = d if list(STRUCTURES[name].samples(d, Maker(seed=seed))) else 3
    structure = samples[data.draw(st.integers(0, len(samples) - 1), "sample")]
    gaps, layout = data.draw(st.sampled_from(GAPS), "gaps"), data.draw(st.sampled_from(LAYOUTS), "layout")
    weights = _weights(data.draw(st.sampled_from(WEIGHTS), "weights"), n, seed)
    own = ["mean", *structure.parameters]
    mean = Maker(seed=seed + 1).normal(d)
    if structure.mean is not None:
        mean = structure.mean.detach().clone()
    try:
        empty = mvnjac.jacobian(torch.zeros(0, d, dtype=torch.float64), mean, structure)
    except NotPositiveDefiniteError:  # some samples are of a seed's luck
        assume(False)
    choices = st.sampled_from([*own, *own, *dense_parameters()])
    whole = data.draw(st.one_of(st.none(), st.lists(choices, min_size=1, max_size=2)), "parameters")
    wrt = None
    if whole is not None:
        tokens = []
        for parameter in whole:
            labels = empty.columns(parameter)
            some = data.draw(st.one_of(st.none(), st.sampled_from(labels)) if labels else st.none(), "element")
            tokens.append(some or parameter)
        wrt = tuple(tokens)
    return Case(structure, mean, _x(n, d, seed, gaps, layout), wrt, gaps, weights)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_right_or_an_error_of_the_library(data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(sorted(OPERATIONS)), "operation")
    check(draw(data), operation)


@pytest.mark.long
@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_each_operation(operation: str, data: st.DataObject) -> None:
    check(draw(data), operation)


# --- what it has found, one by one ----------------------------------------------------------------------------------


def _gaps() -> torch.Tensor:
    x = _x(12, 3, 0, "some", "contiguous")
    x[0, 0] = 1.0
    return x


BLOCKS = mvnjac.BlockDiagonal(
    [mvnjac.Dense(torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()), mvnjac.Isotropic(torch.tensor(1.5).double())]
)
MEAN = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)


@pytest.mark.parametrize(
    "wrt", [("covariance_matrix",), ("mean", "scale_tril"), ("scale",), ("natural_location", "natural_matrix")]
)
@pytest.mark.parametrize(
    "operation", ["hessian solve", "fisher solve", "fisher inverse diagonal", "natural_gradient", "matrix", "hessian"]
)
def test_a_block_diagonal_structure_by_a_dense_covariance_with_missing_entries(wrt: tuple[str, ...], operation: str) -> None:
    assert check(Case(BLOCKS, MEAN, _gaps(), wrt, "some", None), operation)


@pytest.mark.parametrize("gaps", ["none given", "some"])
@pytest.mark.parametrize("operation", ["hessian", "fisher", "natural_gradient"])
def test_parameters_of_a_structure_and_of_a_dense_covariance_do_not_belong_together(gaps: str, operation: str) -> None:
    x = _gaps() if gaps == "some" else _x(5, 3, 0, gaps, "contiguous")
    case = Case(BLOCKS, MEAN, x, ("blocks[0].covariance_matrix", "covariance_matrix"), gaps, None)
    with pytest.raises(
        ArgumentError, match=r"blocks\[0\]\.covariance_matrix and covariance_matrix are parameters of more than one"
    ):
        OPERATIONS[operation](case, Textbook(case))


def test_score_test_within_elements_is_refused() -> None:
    J = mvnjac.fit(_x(40, 3, 0, "none given", "contiguous"), "diagonal").gaussian.jacobian(
        _x(40, 3, 0, "none given", "contiguous")
    )
    with pytest.raises(ArgumentError, match=r"wrt has 'covariance_matrix\[2,0\]'; expected names of whole parameters"):
        mvnjac.inference.score_test(J, zero="covariance_matrix[2,0]", wrt="covariance_matrix[2,0]")


@pytest.mark.parametrize("kind", ["negative", "all zero"])
@pytest.mark.parametrize("call", ["covariance_of_estimates", "influence", "score_test"])
def test_weights_that_count_nothing(kind: str, call: str) -> None:
    x = _x(40, 2, 0, "none given", "contiguous")
    J = mvnjac.fit(x, "diagonal").gaussian.jacobian(x)
    with pytest.raises(ArgumentError, match=rf"{call}: the weight of row \d+ is .*finite and not negative, not all 0"):
        getattr(mvnjac.inference, call)(J, weights=_weights(kind, 40, 0))


@pytest.mark.parametrize(
    "operation", ["fisher solve", "hessian solve", "hessian inverse diagonal", "fisher inverse diagonal", "matrix"]
)
@pytest.mark.parametrize("gaps", ["none given", "some"])
def test_the_correlations_of_one_variable_are_none(operation: str, gaps: str) -> None:
    structure = mvnjac.Isotropic(torch.tensor(2.0).double())
    case = Case(structure, MEAN[:1], _x(5, 1, 0, gaps, "contiguous"), ("correlation_matrix",), gaps, None)
    found = OPERATIONS[operation](case, Textbook(case))[0]
    assert found.numel() == 0


@pytest.mark.parametrize("call", ["covariance_of_estimates", "score_test", "score_process"])
def test_inference_about_no_parameter(call: str) -> None:
    x = _x(20, 1, 0, "none given", "contiguous")
    J = mvnjac.fit(x, "scale-correlation").gaussian.jacobian(x)
    known = {} if call == "score_test" else {"known": ("mean", "scale")}
    with pytest.raises(ArgumentError, match=r"correlation_matrix of 1 variable has no elements"):
        getattr(mvnjac.inference, call)(J, wrt="correlation_matrix", **known)


def test_the_hessian_of_each_of_no_rows() -> None:
    for structure in STRUCTURES["Parametric"].samples(2, Maker(seed=1)):
        H = mvnjac.hessian(
            torch.zeros(0, 2).double(), structure.mean if structure.mean is not None else MEAN[:2], structure, reduce=False
        )
        assert H.matrix().shape == (0, H.shape[-1], H.shape[-1])


@pytest.mark.parametrize("weights", [None, torch.zeros(3, dtype=torch.float64)])
def test_a_hessian_of_no_rows_is_singular(weights: torch.Tensor | None) -> None:
    x = torch.zeros(0 if weights is None else 3, 3, dtype=torch.float64)
    H = mvnjac.hessian(x, MEAN, torch.eye(3).double(), weights=weights)
    with pytest.raises(SingularError):
        H.solve(torch.ones(9).double())


def test_a_natural_gradient_of_no_weight_with_missing_entries() -> None:
    structure = mvnjac.LowRank(torch.ones(3, 1).double(), torch.ones(3).double())
    with pytest.raises(MvnjacError):
        mvnjac.natural_gradient(_gaps(), MEAN, structure, weights=torch.zeros(12).double(), missing="marginalise")
