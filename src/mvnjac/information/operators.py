"""Square operators over the columns of the Jacobian: a product with a vector is cheap, the p×p matrix is formed if asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.covariance.parametrisation import Values
from mvnjac.errors import ArgumentError, ShapeError
from mvnjac.information.curvature import Curvature
from mvnjac.linalg.scipy_operator import linear_operator
from mvnjac.linalg.solvers import DefiniteFactor, conjugate_gradients, definite_factor, dense_solution
from mvnjac.model.model import Model
from mvnjac.parameters.selection import Part, Selection
from mvnjac.tensors import memory
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.tracing import in_jit_trace

Map = Callable[[Values], dict[str, Tensor]]
#: as many right sides at once as fit here
_CHUNK_BYTES = 64 * 2**20
#: the largest matrix that is formed where an iteration would do
_DENSE_SIZE = 4000
#: p×p matrices held at once, measured: where the matrix is made of products with unit vectors, and where it is solved with
_BY_PRODUCTS, _SOLVED = 5, 8
#: arrays of the size of a chunk, measured
_IN_CHUNK = 3

_LESS = "select by wrt=, or take fewer variables."


class Operator:
    """A symmetric p×p matrix (one for each entry of `batch`) over the unique elements of some parameters.

    Made by `hessian` and `fisher_information`.

    Attributes:
        batch: the leading dimensions.
        shape: (*batch, p, p).
        dtype, device: of every result.
    """

    _iterates = False

    def __init__(
        self,
        name: str,
        model: Model,
        selection: Selection,
        batch: Size,
        product: Map,
        inverse_product: Map,
        *,
        curvature: Curvature,
        matrix: Callable[[], Tensor] | None = None,
        inverse_diagonal: Callable[[], Tensor] | None = None,
        scale: Callable[[], Tensor] | None = None,
    ) -> None:
        self._name, self._model, self.selection = name, model, selection
        self._product, self._inverse_product = product, inverse_product
        self._direct, self._direct_diagonal = matrix, inverse_diagonal
        self._curvature, self._scale = curvature, scale
        self._factor: DefiniteFactor | None = None  # of the matrix, from the first solution that needs it
        self._whole = all(part.index is None for part in selection.parts)
        self.batch, self.dtype, self.device = batch, model.dtype, model.mean.device
        self.shape = Size((*batch, selection.size, selection.size))

    @property
    def redundant(self) -> bool:
        """Whether there are directions in which the density does not change at all: `solve` leaves them alone."""
        return self._whole and self._curvature.redundant

    @property
    def closed(self) -> bool:
        """Whether `solve` is closed form: of the whole of it, where it is known without a matrix or an iteration."""
        return (
            self._closed_solution(torch.zeros(self.selection.size, dtype=self._model.working, device=self.device)) is not None
        )

    @property
    def parts(self) -> list[Part]:
        """The parameters, or elements of them, that the columns are."""
        return self.selection.parts

    def columns(self) -> list[str]:
        """The p names of rows and columns: those of `Jacobian.columns`."""
        return self.selection.columns()

    @guarded("{0._name}.matvec", _LESS)
    def matvec(self, v: Float[Tensor, "*any p"]) -> Float[Tensor, "*out p"]:
        """The product with v (..., p), a change of the unique elements; the matrix is not formed."""
        self._check("matvec", v)
        with self._model.arithmetic():
            return self._columns(v.to(self._model.working)).to(self.dtype)

    @guarded("{0._name}.matrix", _LESS)
    def matrix(self) -> Float[Tensor, "*batch p p"]:
        """All of it, symmetric to the last bit.

        Raises:
            MemoryLimitError: before allocating what cannot fit.
        """
        direct = self._direct is not None and self._whole
        self._require("matrix", 1 if direct else _BY_PRODUCTS, not direct, "use matvec and solve, or select by wrt=.")
        with self._model.arithmetic():
            return self._matrix().to(self.dtype)

    @guarded("{0._name}.solve", _LESS)
    def solve(self, b: Float[Tensor, "*any p"]) -> Float[Tensor, "*out p"]:
        """The solution of (this) v = b for b (..., p), partial derivatives by the unique elements.

        In closed form where there is one, as for the mean beside a structure's parameters; otherwise by their matrix, or, where
        that is too large, by conjugate gradients. Directions in which the density does not change at all (rotations of a factor
        model) get nothing: the solution of minimum norm.

        Raises:
            SingularError: if the matrix is singular otherwise.
            MemoryLimitError: where the matrix is needed and cannot fit.
        """
        self._check("solve", b)
        with self._model.arithmetic():
            return self._solution(b.to(self._model.working)).to(self.dtype)

    @guarded("{0._name}.inverse_diagonal", _LESS)
    def inverse_diagonal(self) -> Float[Tensor, "*batch p"]:
        """The diagonal of the inverse: variances, of the information."""
        p = self.selection.size
        with self._model.arithmetic():
            if not p:
                return torch.zeros(self.shape[:-1], dtype=self.dtype, device=self.device)
            if self._direct_diagonal is not None and self._whole:
                return self._direct_diagonal().to(self.dtype)
            self._require("inverse_diagonal", _SOLVED, True, "use solve, or select by wrt=.")
            parts = []
            for first, unit in self._units():
                solution = self._closed_solution(unit)
                if solution is None:
                    eye = torch.eye(p, dtype=self._model.working, device=self.device)
                    inverse = self._solution(eye.reshape(p, *(1,) * len(self.batch), p))
                    return inverse.diagonal(dim1=0, dim2=-1).to(self.dtype)
                parts.append(solution[..., first : first + unit.shape[0]].diagonal(dim1=0, dim2=-1))
            return torch.cat(parts, -1).to(self.dtype)

    def linear_operator(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` view, for one without leading dimensions (needs scipy)."""
        if self.batch:
            raise ShapeError(f"{self._name}.linear_operator: there are {tuple(self.batch)} of them; take one.")
        return linear_operator((self.selection.size, self.selection.size), self.matvec, self.matvec, self.dtype, self.device)

    # --- between coordinates and parameters ----------------------------------------------------------------------

    def _apply(self, product: Map, v: Tensor) -> Tensor:
        changes: dict[str, Tensor] = {}
        for part, at in self.selection.slices():  # elements of one parameter may be asked for here and there
            change = self._change(part, v[..., at])
            changes[part.name] = changes[part.name] + change if part.name in changes else change
        return self._join(product(changes))

    def _change(self, part: Part, v: Tensor) -> Tensor:
        kind = part.coordinates
        if part.index is not None:
            v = v.new_zeros(*v.shape[:-1], kind.size).index_copy(-1, part.index_tensor(v.device), v)
        return kind.unpack(v)

    def _join(self, gradients: Values) -> Tensor:
        columns = self.selection.pack(gradients, gradients=True)
        return columns.expand((*torch.broadcast_shapes(self.batch, columns.shape[:-1]), columns.shape[-1]))

    def _closed_solution(self, b: Tensor) -> Tensor | None:
        """The solution where all of it is closed form."""
        solved = self._closed_parts(b)
        return None if len(solved) < len(self.selection.parts) else self._side_by_side(solved)

    def _closed_parts(self, b: Tensor) -> list[tuple[Part, Tensor]]:
        """Those whole parameters whose part of the solution is closed form."""
        if not self._whole or not self._curvature.solves:
            return []
        changes = self._inverse_product(self.selection.unpack(b, gradients=True))
        return [(part, part.coordinates.pack(changes[part.name])) for part in self.selection.parts if part.name in changes]

    def _side_by_side(self, columns: list[tuple[Part, Tensor]]) -> Tensor:
        """The columns of each part, (..., p) in the selection's order."""
        ordered = [next(t for part, t in columns if part is wanted) for wanted in self.selection.parts]
        batch = torch.broadcast_shapes(self.batch, *(t.shape[:-1] for t in ordered))
        return torch.cat([t.expand((*batch, t.shape[-1])) for t in ordered], -1)

    def _require(self, method: str, times: int | float, chunks: bool, remedy: str) -> None:
        """Refuse what holds so many p×p matrices at once, and the work space of a chunk of products, if that cannot fit."""
        working, p = self._model.working, self.selection.size
        each = working.itemsize * max(self._curvature.work, 1) * max(self.batch.numel(), 1)
        chunk = _IN_CHUNK * max(min(_CHUNK_BYTES, p * each), each) if chunks else 0
        memory.require_work(f"{self._name}.{method}", self.shape, working, self.device, times, chunk, remedy)

    # --- as a matrix ---------------------------------------------------------------------------------------------

    def _units(self) -> Any:
        """(first, (m, *1…, p)) the unit vectors, in chunks."""
        p = self.selection.size
        step = max(1, _CHUNK_BYTES // (8 * max(self._curvature.work, 1) * max(self.batch.numel(), 1)))
        eye = torch.eye(p, dtype=self._model.working, device=self.device)
        for first in range(0, p, step):
            yield first, eye[first : first + step].reshape(-1, *(1,) * len(self.batch), p)

    def _matrix(self) -> Tensor:
        if self._direct is not None and self._whole:
            return self._direct()
        rows = [self._columns(unit) for _, unit in self._units()]
        full = (
            torch.cat(rows).movedim(0, -2) if rows else torch.zeros(self.shape, dtype=self._model.working, device=self.device)
        )
        return 0.5 * (full + full.mT)

    def _columns(self, v: Tensor) -> Tensor:
        """The products with v (..., p), which may have more leading dimensions than there are matrices."""
        more = v.ndim - 1 - len(self.batch)
        if self._curvature.broadcasts or more <= 0:
            return self._apply(self._product, v)
        every = v.flatten(0, more - 1)
        if in_jit_trace():  # which does not record vmap
            each = torch.stack([self._apply(self._product, one) for one in every.unbind()])
        else:
            each = torch.func.vmap(lambda one: self._apply(self._product, one))(every)
        return each.unflatten(0, v.shape[:more])

    def _solution(self, b: Tensor) -> Tensor:
        """In closed form those parameters that have one; the others by their matrix, or by iteration."""
        solved = self._closed_parts(b)
        if not solved:
            return self._numerical(b)
        rest = [(part, at) for part, at in self.selection.slices() if all(part is not other for other, _ in solved)]
        if rest:
            others = self._only([part for part, _ in rest])
            solution = others._numerical(torch.cat([b[..., at] for _, at in rest], -1))
            solved += [(part, solution[..., at]) for part, at in others.selection.slices()]
        return self._side_by_side(solved)

    def _only(self, parts: list[Part]) -> Operator:
        """The rows and columns of some parts."""
        other = copy.copy(self)
        other.selection, other._direct, other._direct_diagonal = self.selection.only(parts), None, None
        other._factor = None
        other.shape = Size((*self.batch, other.selection.size, other.selection.size))
        return other

    def _numerical(self, b: Tensor) -> Tensor:
        """By the matrix, or, where it is too large and never indefinite, by iteration."""
        units = self._curvature.units()
        if units is not None and self._iterates and self.selection.size > _DENSE_SIZE and b.ndim == 1:
            return self._iterated(units, b)
        self._require("solve", _SOLVED, True, "there is no closed form here: select by wrt=.")
        if self._factor is None:
            scale, A = None if self._scale is None else self._scale(), self._matrix()
            self._factor = None if self.redundant or not len(A) else definite_factor(A, scale)
            if self._factor is None:
                return dense_solution(self._name, A, b, self.redundant, scale, self.columns)
        return self._factor.solve(b)

    def _iterated(self, units: Values, b: Tensor) -> Tensor:
        scale = self.selection.pack(units)
        solution = scale * conjugate_gradients(self._name, lambda v: scale * self._apply(self._product, scale * v), scale * b)
        if not self.redundant:
            return solution
        return self.selection.pack(self._curvature.minimum_norm(self.selection.unpack(solution)))

    def _check(self, method: str, v: object) -> None:
        p = self.selection.size
        if not isinstance(v, Tensor) or v.ndim == 0 or v.shape[-1] != p:
            got = f"has shape {tuple(v.shape)}" if isinstance(v, Tensor) else f"is a {type(v).__name__}"
            raise ShapeError(
                f"{self._name}.{method}: the vector {got}; expected a tensor of shape ({p},), one number a column."
            )

    def __repr__(self) -> str:
        parts = ", ".join(f"{part.name} {part.size}" for part in self.selection.parts)
        return f"{type(self).__name__}(shape={tuple(self.shape)}, columns: {parts}; dtype={self.dtype}, device={self.device})"


class Hessian(Operator):
    """The matrix of second derivatives of Σ log p: negative definite at the maximum."""


class FisherInformation(Operator):
    """The expected information of one observation."""

    _iterates = True  # it is never indefinite

    @guarded("{0._name}.inverse", _LESS)
    def inverse(self) -> Float[Tensor, "*batch p p"]:
        """The inverse as a matrix, where it is closed form: the covariance of an efficient estimate, times n.

        Raises:
            ArgumentError: where there is none (take `solve`, or a complete parametrisation).
            MemoryLimitError: before allocating what cannot fit.
        """
        self._require("inverse", _BY_PRODUCTS, True, "use solve or inverse_diagonal.")
        with self._model.arithmetic():
            rows = []
            if not self.selection.size:
                return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
            for _, unit in self._units():
                solution = self._closed_solution(unit)
                if solution is None:
                    raise ArgumentError(
                        f"fisher_information.inverse: there is no closed form over {', '.join(self._selection_names())}; "
                        "use solve(b), or ask for all parameters of one dense parametrisation."
                    )
                rows.append(solution)
            full = torch.cat(rows).movedim(0, -2)
            return (0.5 * (full + full.mT)).to(self.dtype)

    def _selection_names(self) -> list[str]:
        return [part.name for part in self.selection.parts]
