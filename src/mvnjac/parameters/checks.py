"""Checks of argument values, with error messages that state what is wrong and where.

A `Check` holds a 0-dimensional boolean tensor, computed without a device synchronisation, and a function that creates the
error. All checks of a call are evaluated together, with one device synchronisation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mvnjac.errors import (
    ArgumentError,
    DtypeError,
    MvnjacError,
    NotFiniteError,
    NotPositiveDefiniteError,
    NotSymmetricError,
    counted,
)
from mvnjac.parameters import predicates
from mvnjac.parameters.coordinates import Coordinates
from mvnjac.parameters.names import Names
from mvnjac.tensors.tracing import is_on_host

#: The name of a variable in a message: its index → "variable 3" or "'EEK'".
NameOf = Callable[[int], str]
#: The largest allowed differences of entries [i,j] and [j,i]: a matrix (..., d, d) → (..., d, d).
Tolerance = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Check:
    """A condition on values, and the error if it does not hold.

    Attributes:
        ok: 0-dimensional boolean tensor, or a bool if the result is known.
        explain: (function, names) → the error if ok is False; None if the condition holds after all (a sum overflowed).
        tolerating: the same check with another tolerance; None if it has no tolerance.
    """

    ok: Tensor | bool
    explain: Callable[[str, Names], MvnjacError | None]
    tolerating: Callable[[Tolerance], Check] | None = None

    def within(self, rename: Callable[[Names], Names], place: str = "") -> Check:
        """The same check for a part of the arguments: with other names, and `place` added to the function in the message."""
        tolerating = self.tolerating
        return replace(
            self,
            explain=lambda function, names: self.explain(function + place, rename(names)),
            tolerating=None if tolerating is None else lambda tolerance: tolerating(tolerance).within(rename, place),
        )


def raise_first(function: str, pending: Iterable[Check], naming: Names) -> None:
    """Evaluate all checks together, with one device synchronisation, and raise the error of the first that failed."""
    pending = list(pending)
    flags = [check.ok for check in pending if isinstance(check.ok, Tensor)]
    known = all(check.ok for check in pending if not isinstance(check.ok, Tensor))
    if known and (not flags or bool(torch.stack(flags).all())):
        return
    for check in pending:
        error = None if bool(check.ok) else check.explain(function, naming)
        if error is not None:
            raise error


def floating(function: str, name: str, value: object, like: torch.dtype | None = None) -> None:
    """Raise DtypeError unless the value is a float32 or float64 tensor; the message suggests the dtype `like`, if given."""
    if not isinstance(value, Tensor):
        hint = "torch.from_numpy(...)" if type(value).__module__ == "numpy" else "torch.tensor(...)"
        raise DtypeError(f"{function}: {name} is a {type(value).__name__}; pass a torch.Tensor, for example by {hint}.")
    if value.dtype not in (torch.float32, torch.float64):
        if like not in (torch.float32, torch.float64):
            like = torch.float32 if value.is_floating_point() else torch.float64
        to = "float" if like is torch.float32 else "double"
        remedy = f"convert it by {name}.{to}()" if not value.is_complex() else "complex densities are not supported"
        raise DtypeError(f"{function}: {name} is {value.dtype}; expected float32 or float64: {remedy}.")


def finite(name: str, value: Tensor, coordinates: Coordinates) -> Check:
    """All values are finite."""

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        bad = ~torch.isfinite(value)
        if not bad.any():
            return None
        where = bad.nonzero()[0].tolist()
        number = value[tuple(where)].item()
        place = _place(where, coordinates, name_of)
        return NotFiniteError(
            f"{function}: {name} is {number} at {place} ({counted(int(bad.sum()), 'such entry')} in all); "
            "remove or replace them; mvnjac never changes values."
        )

    return Check(predicates.all_finite(value), explain)


def finite_rows(value: Tensor, missing: bool = False) -> Check:
    """All values of x are finite; the message states row and column. missing: whether NaN is allowed."""

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        bad = torch.isinf(value) if missing else ~torch.isfinite(value)
        if not bad.any():
            return None
        *row, column = bad.nonzero()[0].tolist()
        place = f"row {row[0] if len(row) == 1 else tuple(row)}, " if row else ""
        number = value[(*row, column)].item()
        return NotFiniteError(
            f"{function}: x is {number} at {place}column {column} ({name_of(column)}); {counted(int(bad.sum()), 'such entry')} "
            f"in {counted(int(bad.any(-1).sum()), 'row')}; drop these rows or select complete columns"
            + ("." if math.isinf(number) else ", or pass missing='marginalise' if NaN marks missing entries.")
        )

    return Check(~torch.isinf(value.detach()).any() if missing else predicates.all_finite(value), explain)


#: the largest allowed difference of two entries that should be equal, relative to the scales of their variables: eps^⅔
SYMMETRY = {dtype: torch.finfo(dtype).eps ** (2 / 3) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}


def rounding(A: Tensor) -> Tensor:
    """(..., d, d) the default tolerance of symmetry: eps^⅔ √(Aᵢᵢ Aⱼⱼ), relative to the scales of the two variables."""
    scale = A.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    return SYMMETRY[A.dtype] * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def symmetric(name: str, A: Tensor, tolerance: Tolerance = rounding) -> Check:
    """A is symmetric: |Aᵢⱼ − Aⱼᵢ| is within the tolerance, which allows for rounding."""
    with torch.no_grad():
        if is_on_host(A) and predicates.equals_transpose(A):
            return Check(True, lambda *_: None, functools.partial(symmetric, name, A))
        bad = (A - A.mT).abs() > tolerance(A)

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        *batch, i, j = bad.nonzero()[0].tolist()
        entry, mirrored = A[(*batch, i, j)].item(), A[(*batch, j, i)].item()
        return NotSymmetricError(
            f"{function}: {name} is not symmetric{of_batch(batch)}: entry [{i},{j}] ({name_of(i)}, {name_of(j)}) is "
            f"{entry!r} but [{j},{i}] is {mirrored!r}; if the difference is rounding, pass (A + A.mT) / 2."
        )

    return Check(~bad.any(), explain, functools.partial(symmetric, name, A))


def lower_triangular(name: str, A: Tensor) -> Check:
    """A is lower triangular: zero above the diagonal."""
    A = A.detach()

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        above = (A.triu(1) != 0).nonzero()  # empty if A only has NaN on or below the diagonal
        if not len(above):
            return None
        *batch, i, j = above[0].tolist()
        return ArgumentError(
            f"{function}: {name} is not lower triangular{of_batch(batch)}: entry [{i},{j}] is "
            f"{A[(*batch, i, j)].item()!r}; pass {name}.tril() to use its lower triangle."
        )

    return Check(predicates.is_lower_triangular(A) if is_on_host(A) else (A.tril() == A).all(), explain)


def positive(name: str, value: Tensor, event: int = 1, what: str = "entry") -> Check:
    """All values are positive (variances, standard deviations, the diagonal of a Cholesky factor)."""
    bad = ~(value.detach() > 0)

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        where = bad.nonzero()[0].tolist()
        batch, index = (where[:-1], where[-1]) if event else (where, None)
        place = "" if index is None else f" {what} {index} ({name_of(index)})"
        return NotPositiveDefiniteError(
            f"{function}: {name}{place}{of_batch(batch)} is {value[tuple(where)].item()!r}; it must be positive. "
            "A constant variable has no density: remove it."
        )

    return Check(~bad.any(), explain)


def between(name: str, value: Tensor, lowest: float, highest: float, what: str) -> Check:
    """All values are strictly inside an interval, outside of which Σ is not positive definite."""
    given = value.detach()
    bad = ~((given > lowest) & (given < highest))

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        where = bad.nonzero()[0].tolist()
        return NotPositiveDefiniteError(
            f"{function}: {name}{of_batch(where)} is {value[tuple(where)].item()!r}; {what} must lie between {lowest:.6g} and "
            f"{highest:.6g}, both excluded, for the covariance to be positive definite."
        )

    return Check(~bad.any(), explain)


def exponential(name: str, diagonal: Tensor) -> Check:
    """The exponential of a diagonal neither overflowed nor underflowed to 0."""
    bad = ~(torch.isfinite(diagonal.detach()) & (diagonal.detach() > 0))

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        *batch, i = bad.nonzero()[0].tolist()
        return NotFiniteError(
            f"{function}: the exponential of {name}'s diagonal entry {i} ({name_of(i)}){of_batch(batch)} is "
            f"{diagonal[(*batch, i)].item()!r} in {diagonal.dtype}; this standard deviation is out of range."
        )

    return Check(~bad.any(), explain)


def unit_diagonal(name: str, R: Tensor) -> Check:
    """The diagonal of a correlation matrix is 1, up to 10 eps."""
    diagonal = R.detach().diagonal(dim1=-2, dim2=-1)
    bad = (diagonal - 1).abs() > 10 * torch.finfo(R.dtype).eps

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        *batch, i = bad.nonzero()[0].tolist()
        return ArgumentError(
            f"{function}: {name} has {diagonal[(*batch, i)].item()!r} on its diagonal at {i} ({name_of(i)})"
            f"{of_batch(batch)}; a correlation matrix has 1 there. Pass the standard deviations as `scale`."
        )

    return Check(~bad.any(), explain)


def definite(name: str, A: Tensor, info: Tensor | None, *, backwards: bool = False) -> Check:
    """A Cholesky factorisation succeeded: info (*batch) is 0, and not the order of the first failed leading minor.

    backwards: whether the factorisation ran from the last variable to the first.
    """
    if info is None:
        raise AssertionError(f"{name} was not factorised")

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        batch = info.nonzero()[0].tolist()
        matrix, order = A.detach()[tuple(batch)].double(), int(info[tuple(batch)])
        d = matrix.shape[-1]
        variables = [d - 1 - i for i in range(order)] if backwards else list(range(order))
        pivot = variables[-1]
        return NotPositiveDefiniteError(
            f"{function}: {name} is not positive definite{of_batch(batch)}: the Cholesky pivot of {name_of(pivot)} "
            f"(pivot {order} of {d}) is not positive. {_cause(matrix, variables, name_of)}"
        )

    return Check((info == 0).all(), explain)


def _cause(A: Tensor, variables: list[int], name_of: NameOf) -> str:
    """Why the pivot of the last of these variables failed: its variance, or a linear combination of other variables."""
    pivot = variables[-1]
    variance = A[pivot, pivot].item()
    if variance <= 0:
        kind = "constant" if variance == 0 else "not a variance"
        return f"Its diagonal entry is {variance!r}: {kind}. Remove {name_of(pivot)}, or correct the matrix."
    return (
        f"{name_of(pivot)} is, to rounding or beyond, a linear combination of {combination(A, variables, name_of)}. "
        "Remove one of them, use more rows than variables, or correct the matrix; mvnjac adds no jitter."
    )


def combination(A: Tensor, variables: list[int], name_of: NameOf) -> str:
    """The names of the variables that contribute most to the last one, by its regression on the others."""
    *before, pivot = variables
    weights = torch.linalg.lstsq(A[before][:, before], A[before, pivot].unsqueeze(-1), driver="gelsd").solution
    share = weights.squeeze(-1).abs() * A.diagonal()[before].abs().sqrt() / A[pivot, pivot].item() ** 0.5
    involved = [before[i] for i in share.argsort(descending=True).tolist() if share[i] > 0.01][:5]
    return ", ".join(name_of(i) for i in involved) or "the variables before it"


def _place(where: Sequence[int], coordinates: Coordinates, name_of: NameOf) -> str:
    event = len(coordinates.shape)
    batch, index = where[: len(where) - event], where[len(where) - event :]
    if not index:
        return f"batch index {tuple(batch)}" if batch else "its only entry"
    names = ", ".join(name_of(i) for i in coordinates.variables(index))
    return f"[{','.join(map(str, index))}]{f' ({names})' if names else ''}{of_batch(batch)}"


def of_batch(batch: Sequence[int]) -> str:
    """The batch index as the end of a phrase in a message: " at batch index 3"; empty without one."""
    return f" at batch index {batch[0] if len(batch) == 1 else tuple(batch)}" if batch else ""
