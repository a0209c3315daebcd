"""Coordinates of a parameter: its unique elements, their order and their names.

A parameter of shape (m, k) has m·k entries; a symmetric or triangular one has fewer *unique elements*. This module defines

- values: the entries that are the unique elements (`pack`);
- derivatives: the partial derivatives with respect to the unique elements, from the full gradient (`pack_gradient`):
  off-diagonal entries of a symmetric matrix are doubled, since one element is two entries (Dᵀ vec G with the duplication
  matrix D);
- directions: the full matrix of a vector of changes of the unique elements (`unpack`: D v).

Symmetric and triangular matrices use the order of vech, the lower triangle column by column (Magnus & Neudecker, *Matrix
Differential Calculus*); all other parameters are row-major.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ShapeError


class Coordinates:
    """The unique elements of a parameter of shape `shape`; in this base class all entries, in row-major order.

    `named_axes` are the axes that run over the variables and are labelled by their names; the other axes are numbered.
    """

    mirrored = False

    def __init__(self, shape: Sequence[int], named_axes: Sequence[int] | None = None) -> None:
        self.shape = tuple(shape)
        self.named_axes = tuple(range(len(self.shape))) if named_axes is None else tuple(named_axes)

    @property
    def size(self) -> int:
        """The number of unique elements."""
        return math.prod(self.shape)

    def positions(self, device: torch.device | None = None) -> Tensor:
        """(size,) the position of each unique element in the parameter flattened in row-major order."""
        return torch.arange(self.size, dtype=torch.long, device=device)

    def multiplicity(self, positions: Tensor) -> Tensor | None:
        """The number of entries of each of these unique elements; None if it is 1 for all."""
        return None

    def free(self, positions: Tensor) -> Tensor | None:
        """Which of these entries can vary; None if all can."""
        return None

    def project(self, full: Tensor) -> Tensor:
        """Set the entries that cannot vary to 0."""
        return full

    def pack(self, full: Tensor) -> Tensor:
        """(..., *shape) → (..., size): the values of the unique elements."""
        return full.reshape((*full.shape[: full.ndim - len(self.shape)], self.size))

    def pack_gradient(self, full: Tensor) -> Tensor:
        """(..., *shape) full gradient → (..., size) partial derivatives with respect to the unique elements (Dᵀ vec G)."""
        return self.pack(full)

    def unpack(self, vector: Tensor) -> Tensor:
        """(..., size) changes of the unique elements → (..., *shape) the change of the parameter (D v)."""
        return vector.reshape((*vector.shape[:-1], *self.shape))

    def unpack_gradient(self, vector: Tensor) -> Tensor:
        """(..., size) partial derivatives → (..., *shape) full gradient, the inverse of `pack_gradient`."""
        multiplicity = self.multiplicity(self.positions(vector.device))
        return self.unpack(vector if multiplicity is None else vector / multiplicity)

    def all_entries(self) -> Coordinates:
        """The coordinates of the "full" layout: all entries in row-major order."""
        return Coordinates(self.shape, self.named_axes)

    def variables(self, index: Sequence[int]) -> list[int]:
        """The variables that an entry belongs to."""
        return [index[axis] for axis in self.named_axes]

    # --- names ---------------------------------------------------------------------------------------------------

    def labels(self, names: Sequence[str] | None) -> list[str]:
        """The labels of the unique elements in order: "[AAPL]", "[MSFT,AAPL]" (row, column); "" for a scalar."""
        axes = [self.axis_labels(axis, names) for axis in range(len(self.shape))]
        return [_bracket([axis[i] for axis, i in zip(axes, index, strict=True)]) for index in self.indices()]

    def locate(self, label: str, names: Sequence[str] | None) -> int | None:
        """The position of the element with this label among the unique elements; None if there is none."""
        axes = [self.axis_labels(axis, names) for axis in range(len(self.shape))]
        if label == "" and not axes:
            return 0
        if not (label.startswith("[") and label.endswith("]")):
            return None
        for parts in _splits(label[1:-1].split(","), len(axes)):
            if all(part in axis for part, axis in zip(parts, axes, strict=True)):
                return self._rank(tuple(axis.index(part) for part, axis in zip(parts, axes, strict=True)))
        return None

    def axis_labels(self, axis: int, names: Sequence[str] | None) -> list[str]:
        """The names of the variables, or numbers, along an axis."""
        if names is not None and axis in self.named_axes:
            return list(names)
        return [str(i) for i in range(self.shape[axis])]

    def indices(self) -> list[tuple[int, ...]]:
        """The indices of the unique elements in the parameter, in order."""
        return list(itertools.product(*(range(length) for length in self.shape)))

    def _rank(self, index: tuple[int, ...]) -> int | None:
        rank = 0
        for i, length in zip(index, self.shape, strict=True):
            rank = rank * length + i
        return rank


class Triangle(Coordinates):
    """The lower triangle of a d×d matrix in vech order.

    - ``mirrored=True``: a symmetric matrix; an off-diagonal element is two entries.
    - ``mirrored=False``: a lower triangular matrix; its upper triangle is fixed at 0.
    - ``diagonal=False``: the diagonal is fixed and not a parameter (a correlation matrix).
    """

    def __init__(self, d: int, *, mirrored: bool, diagonal: bool = True) -> None:
        super().__init__((d, d))
        self.d, self.mirrored, self.diagonal = d, mirrored, diagonal

    @property
    def size(self) -> int:
        return self.d * (self.d + 1) // 2 if self.diagonal else self.d * (self.d - 1) // 2

    def positions(self, device: torch.device | None = None) -> Tensor:
        columns, rows = torch.triu_indices(self.d, self.d, 0 if self.diagonal else 1, device=device)
        return rows * self.d + columns

    def multiplicity(self, positions: Tensor) -> Tensor | None:
        if not self.mirrored:
            return None
        return torch.where(positions % (self.d + 1) == 0, 1, 2)

    def free(self, positions: Tensor) -> Tensor | None:
        if not self.mirrored:
            return positions // self.d >= positions % self.d
        return None if self.diagonal else positions % (self.d + 1) != 0

    def project(self, full: Tensor) -> Tensor:
        if not self.mirrored:
            return full.tril()
        return full if self.diagonal else full.tril(-1) + full.triu(1)

    def pack(self, full: Tensor) -> Tensor:
        return full.flatten(-2)[..., self.positions(full.device)]

    def pack_gradient(self, full: Tensor) -> Tensor:
        packed = self.pack(full)
        multiplicity = self.multiplicity(self.positions(full.device))
        return packed if multiplicity is None else packed * multiplicity

    def unpack(self, vector: Tensor) -> Tensor:
        lower = torch.zeros(*vector.shape[:-1], self.d * self.d, dtype=vector.dtype, device=vector.device)
        lower = lower.index_copy(-1, self.positions(vector.device), vector).unflatten(-1, (self.d, self.d))
        return lower + lower.tril(-1).mT if self.mirrored else lower

    def indices(self) -> list[tuple[int, ...]]:
        first = 0 if self.diagonal else 1
        return [(row, column) for column in range(self.d) for row in range(column + first, self.d)]

    def _rank(self, index: tuple[int, ...]) -> int | None:
        row, column = index
        if self.mirrored and row < column:
            row, column = column, row  # the same element
        if row < column or (row == column and not self.diagonal):
            return None
        first = 0 if self.diagonal else 1
        before = column * (self.d - first) - column * (column - 1) // 2
        return before + row - column - first


def symmetric(d: int) -> Triangle:
    """Coordinates of a symmetric d×d matrix: vech, with off-diagonal elements doubled in derivatives."""
    return Triangle(d, mirrored=True)


def lower_triangular(d: int) -> Triangle:
    """Coordinates of a lower triangular d×d matrix: vech of the triangle, without doubling."""
    return Triangle(d, mirrored=False)


def correlation(d: int) -> Triangle:
    """Coordinates of a correlation matrix: the strict lower triangle, doubled in derivatives; the diagonal is fixed at 1."""
    return Triangle(d, mirrored=True, diagonal=False)


def vector(d: int) -> Coordinates:
    """Coordinates of a vector over the variables."""
    return Coordinates((d,))


def scalar() -> Coordinates:
    """Coordinates of a single number."""
    return Coordinates(())


def vech(A: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch p"]:
    """Stack the columns of the lower triangle of A: half-vectorisation (Magnus & Neudecker).

    Args:
        A: (..., d, d); only the lower triangle is read.

    Returns:
        (..., d(d+1)/2): a₁₁, a₂₁, …, a_d1, a₂₂, a₃₂, … These are the *values* of the unique elements, without doubling;
        derivatives with respect to off-diagonal elements are doubled, see `Jacobian.unique`.

    Raises:
        ShapeError: if A is not square in its last two dimensions.

    Example:
        >>> import torch, mvnjac
        >>> mvnjac.vech(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
        tensor([1., 2., 3.])
    """
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ShapeError(f"vech: A has shape {tuple(A.shape)}; pass a square matrix (..., d, d).")
    return symmetric(A.shape[-1]).pack(A)


def unvech(v: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch d d"]:
    """The symmetric matrix whose vech is v; the inverse of `vech` on symmetric matrices.

    Args:
        v: (..., d(d+1)/2), the lower triangle column by column.

    Returns:
        (..., d, d), symmetric.

    Raises:
        ShapeError: if the length of v is not a triangular number.

    Example:
        >>> import torch, mvnjac
        >>> mvnjac.unvech(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[1., 2.],
                [2., 3.]])
    """
    length = v.shape[-1] if v.ndim else 0
    d = (math.isqrt(8 * length + 1) - 1) // 2
    if v.ndim == 0 or d * (d + 1) // 2 != length:
        raise ShapeError(f"unvech: v has shape {tuple(v.shape)}; its last dimension must be d(d+1)/2: 1, 3, 6, 10, …")
    return symmetric(d).unpack(v)


def _bracket(parts: Sequence[str]) -> str:
    return f"[{','.join(parts)}]" if parts else ""


def _splits(pieces: list[str], parts: int) -> Iterator[list[str]]:
    """All ways to join the pieces, in order, into this many labels, since the name of a variable may contain commas."""
    for cuts in itertools.combinations(range(1, len(pieces)), parts - 1) if parts else ():
        edges = (0, *cuts, len(pieces))
        yield [",".join(pieces[start:stop]) for start, stop in itertools.pairwise(edges)]
