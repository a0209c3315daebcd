"""Structures × columns × missing entries × weights × layouts × operations, at random: right, or an error of the library's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mvnjac
from mvnjac.covariance import dense_parameters, structures
from mvnjac.covariance.samples import Maker
from mvnjac.errors import NotPositiveDefiniteError
from tests.fuzz import OPERATIONS, Case, check

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
        data.draw(st.sampled_from([0, 1, 2, 5, 12]), "n"),
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
