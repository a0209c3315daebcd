"""vech, unvech, the duplication products and names, on all shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mvnjac
from mvnjac.parameters.coordinates import Coordinates, Triangle, correlation, lower_triangular, scalar, symmetric, vector

KINDS = [symmetric, lower_triangular, correlation, vector, lambda d: scalar(), lambda d: Coordinates((d, 2), named_axes=(0,))]


def test_vech_is_column_stacked() -> None:
    A = torch.tensor([[1.0, 2, 4], [2, 3, 5], [4, 5, 6]])
    assert mvnjac.vech(A).tolist() == [1, 2, 4, 3, 5, 6]
    assert torch.equal(mvnjac.unvech(mvnjac.vech(A)), A)
    assert mvnjac.vech(A.expand(2, 5, 3, 3)).shape == (2, 5, 6)


@given(d=st.integers(0, 6), kind=st.sampled_from(KINDS), seed=st.integers(0, 100))
def test_unpack_is_adjoint_to_pack_gradient(d: int, kind, seed: int) -> None:
    """⟨G, D v⟩ = ⟨Dᵀ G, v⟩ for the projected symmetric (or free) gradients G, as the chain rule requires."""
    coordinates = kind(d)
    generator = torch.Generator().manual_seed(seed)
    G = torch.randn(coordinates.shape, generator=generator).double()
    if coordinates.mirrored:
        G = G + G.mT
    G = coordinates.project(G)
    v = torch.randn(coordinates.size, generator=generator).double()
    torch.testing.assert_close((G * coordinates.unpack(v)).sum(), (coordinates.pack_gradient(G) * v).sum())
    torch.testing.assert_close(coordinates.pack(coordinates.unpack(v)), v)


@given(d=st.integers(0, 5), kind=st.sampled_from(KINDS), full=st.booleans(), named=st.booleans())
def test_every_label_is_located(d: int, kind, full: bool, named: bool) -> None:
    coordinates = kind(d).all_entries() if full else kind(d)
    names = ["a", "b,c", "b", "c", "[x]"][:d] if named else None
    labels = coordinates.labels(names)
    assert len(labels) == coordinates.size == len(set(labels))
    for rank, label in enumerate(labels):
        assert coordinates.locate(label, names) == rank
    assert coordinates.locate("[unknown]", names) is None


@given(d=st.integers(1, 6), diagonal=st.booleans(), mirrored=st.booleans())
def test_positions_and_multiplicity(d: int, diagonal: bool, mirrored: bool) -> None:
    coordinates = Triangle(d, mirrored=mirrored, diagonal=diagonal)
    expected = [i * d + j for j in range(d) for i in range(j if diagonal else j + 1, d)]
    positions = coordinates.positions()
    assert positions.tolist() == expected
    multiplicity = coordinates.multiplicity(positions)
    if mirrored:
        assert multiplicity.tolist() == [1 if position % (d + 1) == 0 else 2 for position in expected]
    else:
        assert multiplicity is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mvnjac.vech(torch.zeros(3, 2)), r"shape \(3, 2\)"),
        (lambda: mvnjac.vech(torch.zeros(3)), r"square matrix"),
        (lambda: mvnjac.unvech(torch.zeros(5)), r"1, 3, 6, 10"),
        (lambda: mvnjac.unvech(torch.tensor(1.0)), r"shape \(\)"),
    ],
)
def test_wrong_shapes(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
