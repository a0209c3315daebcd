"""Hessian and Fisher information as operators over columns: cheap products with vectors, and the p×p matrix on request."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.covariance.parametrisation import Values
from mvnjac.errors import ArgumentError, ShapeError
from mvnjac.information.column_maps import ColumnMaps, ParameterMap
from mvnjac.information.curvature import Curvature, DirectMatrix, RowStatistics
from mvnjac.information.export import NamedOperator
from mvnjac.linalg.solvers import DefiniteFactor, conjugate_gradients, definite_factor, dense_solution
from mvnjac.model.model import Model
from mvnjac.parameters.selection import Part, Selection
from mvnjac.tensors import memory
from mvnjac.tensors.allocation import guarded

#: the largest matrix that is formed where conjugate gradients can be used instead
_DENSE_SIZE = 4000
#: p×p matrices that are alive at once, measured: while a matrix is formed by products with unit vectors, and while it is solved
_BY_PRODUCTS, _SOLVED = 5, 8

_LESS = "select by wrt=, or take fewer variables."


class Operator(NamedOperator):
    """A symmetric p×p matrix (one for each entry of `batch`) over the unique elements of some parameters.

    Made by `hessian` and `fisher_information`.

    Attributes:
        batch: the leading dimensions.
        shape: (*batch, p, p).
        dtype: of all results.
        device: of all results.
    """

    _name: str
    _positive_semidefinite = False

    def __init__(
        self,
        model: Model,
        selection: Selection,
        batch: Size,
        curvature: Curvature,
        product: ParameterMap,
        inverse_product: ParameterMap,
        matrix: DirectMatrix | None,
        inverse_diagonal: DirectMatrix | None,
        scale: DirectMatrix | None,
    ) -> None:
        self._model, self._curvature = model, curvature
        self._product, self._inverse_product = product, inverse_product
        self._direct_matrix, self._direct_inverse_diagonal, self._scale = matrix, inverse_diagonal, scale
        self._maps = ColumnMaps(selection, batch, curvature, model.working, model.mean.device)
        self._factor: DefiniteFactor | None = None  # of the matrix, kept from the first solution that needs it
        self.batch, self.dtype, self.device = batch, model.dtype, model.mean.device
        if not self._maps.whole_parameters:
            self._direct_matrix = self._direct_inverse_diagonal = None

    @property
    def selection(self) -> Selection:
        """The columns."""
        return self._maps.selection

    @property
    def shape(self) -> Size:
        """(*batch, p, p)."""
        return Size((*self.batch, self.selection.size, self.selection.size))

    @property
    def redundant(self) -> bool:
        """Whether the density is constant along some directions; `solve` then returns the solution of minimum norm."""
        return self._maps.whole_parameters and self._curvature.redundant

    @property
    def closed(self) -> bool:
        """Whether `solve` has a closed form for all parameters."""
        return self._maps.closed_solution(self._inverse_product, self._maps.zeros(self.selection.size)) is not None

    def columns(self) -> list[str]:
        """The p names of the rows and columns, as in `Jacobian.columns`."""
        return self.selection.columns()

    @guarded("{0._name}.matvec", _LESS)
    def matvec(self, v: Float[Tensor, "*any p"]) -> Float[Tensor, "*out p"]:
        """The product with a vector, without forming the matrix.

        Args:
            v: (..., p), a change of the unique elements.

        Returns:
            (..., p), the product, with the leading dimensions of v and `batch`.
        """
        self._check("matvec", v)
        with self._model.arithmetic():
            return self._maps.product(self._product, v.to(self._model.working)).to(self.dtype)

    @guarded("{0._name}.matrix", _LESS)
    def matrix(self) -> Float[Tensor, "*batch p p"]:
        """The matrix (*batch, p, p), symmetric to the last bit.

        Raises:
            MemoryLimitError: the matrix and the work space cannot fit; raised before anything is allocated.
        """
        direct = self._direct_matrix is not None
        self._require("matrix", 1 if direct else _BY_PRODUCTS, not direct, "use matvec and solve, or select by wrt=.")
        with self._model.arithmetic():
            return self._matrix().to(self.dtype)

    @guarded("{0._name}.solve", _LESS)
    def solve(self, b: Float[Tensor, "*any p"]) -> Float[Tensor, "*out p"]:
        """The solution v of A v = b, where A is this matrix.

        Parameters with a closed form, such as the mean of a structured covariance, use it. The others use a factorisation of
        the matrix or, for a large Fisher information of a structure, conjugate gradients. If the density is constant along some
        directions, such as the rotations of a factor model, the result is the solution of minimum norm.

        Args:
            b: (..., p), partial derivatives with respect to the unique elements.

        Returns:
            (..., p), the solution, with the leading dimensions of b and `batch`.

        Raises:
            SingularError: the matrix is singular for any other reason.
            MemoryLimitError: the matrix is needed and cannot fit.
        """
        self._check("solve", b)
        with self._model.arithmetic():
            return self._solution(b.to(self._model.working)).to(self.dtype)

    @guarded("{0._name}.inverse_diagonal", _LESS)
    def inverse_diagonal(self) -> Float[Tensor, "*batch p"]:
        """The diagonal (*batch, p) of the inverse: for the Fisher information, n times the variances of efficient estimates."""
        if self._direct_inverse_diagonal is None:
            self._require("inverse_diagonal", _SOLVED, True, "use solve, or select by wrt=.")
        with self._model.arithmetic():
            if self._direct_inverse_diagonal is not None:
                return self._direct_inverse_diagonal().to(self.dtype)
            inverse = self._maps.closed_inverse(self._inverse_product)
            if inverse is None:
                inverse = self._solution(self._maps.identity()).movedim(0, -2)
            return inverse.diagonal(dim1=-2, dim2=-1).to(self.dtype)

    def _matrix(self) -> Tensor:
        return self._maps.matrix(self._product) if self._direct_matrix is None else self._direct_matrix()

    def _solution(self, b: Tensor) -> Tensor:
        """The solution in closed form for the parameters that have one, and numerically for the others."""
        solved = self._maps.closed_parts(self._inverse_product, b)
        if not solved:
            return self._numerical_solution(b)
        rest = [(part, at) for part, at in self.selection.slices() if all(part is not other for other, _ in solved)]
        if rest:
            others = self._only([part for part, _ in rest])
            solution = others._numerical_solution(torch.cat([b[..., at] for _, at in rest], -1))
            solved += [(part, solution[..., at]) for part, at in others.selection.slices()]
        return self._maps.concatenated(solved)

    def _only(self, parts: list[Part]) -> Operator:
        """The rows and columns of some parts."""
        other = copy.copy(self)
        other._maps = self._maps.only(parts)
        other._direct_matrix = other._direct_inverse_diagonal = other._factor = None
        return other

    def _numerical_solution(self, b: Tensor) -> Tensor:
        """The solution by the matrix or, if it is large and positive semidefinite, by conjugate gradients."""
        units = self._curvature.units()
        if units is not None and self._positive_semidefinite and self.selection.size > _DENSE_SIZE and b.ndim == 1:
            return self._iterative_solution(units, b)
        self._require("solve", _SOLVED, True, "there is no closed form here: select by wrt=.")
        if self._factor is None:
            scale, A = None if self._scale is None else self._scale(), self._matrix()
            self._factor = None if self.redundant or not len(A) else definite_factor(A, scale)
            if self._factor is None:
                return dense_solution(self._name, A, b, self.redundant, scale, self.columns)
        return self._factor.solve(b)

    def _iterative_solution(self, units: Values, b: Tensor) -> Tensor:
        scale = self.selection.pack(units)

        def scaled_product(v: Tensor) -> Tensor:
            return scale * self._maps.product(self._product, scale * v)

        solution = scale * conjugate_gradients(self._name, scaled_product, scale * b)
        if not self.redundant:
            return solution
        return self.selection.pack(self._curvature.minimum_norm(self.selection.unpack(solution)))

    def _require(self, method: str, times: int, chunks: bool, remedy: str) -> None:
        """Raise MemoryLimitError if `times` p×p matrices and, with `chunks`, a chunk of products cannot fit."""
        chunk = self._maps.chunk_bytes if chunks else 0
        memory.require_work(f"{self._name}.{method}", self.shape, self._model.working, self.device, times, chunk, remedy)

    def _check(self, method: str, v: object) -> None:
        p = self.selection.size
        if not isinstance(v, Tensor) or v.ndim == 0 or v.shape[-1] != p:
            got = f"has shape {tuple(v.shape)}" if isinstance(v, Tensor) else f"is a {type(v).__name__}"
            raise ShapeError(f"{self._name}.{method}: the vector {got}; expected a tensor of shape ({p},) or (..., {p}).")

    def __repr__(self) -> str:
        parts = ", ".join(f"{part.name} {part.size}" for part in self.selection.parts)
        return f"{type(self).__name__}(shape={tuple(self.shape)}, columns: {parts}; dtype={self.dtype}, device={self.device})"


class Hessian(Operator):
    """The matrix of second derivatives of Σ log p, over the unique elements. It is negative definite at a regular maximum.

    Made by `mvnjac.hessian`, which states the formulas.

    Example:
        >>> import torch, mvnjac
        >>> H = mvnjac.hessian(torch.tensor([[1.0], [3.0]]), torch.zeros(1), torch.eye(1))
        >>> H.matvec(torch.tensor([1.0, 0.0]))
        tensor([-2., -4.])
    """

    _name = "hessian"

    def __init__(
        self,
        model: Model,
        selection: Selection,
        batch: Size,
        curvature: Curvature,
        statistics: RowStatistics,
        scale: DirectMatrix | None = None,
    ) -> None:
        maps, matrix = (statistics.hessian, statistics.hessian_solve), statistics.hessian_matrix(selection)
        super().__init__(model, selection, batch, curvature, *maps, matrix, None, scale)


class FisherInformation(Operator):
    """The expected information of one observation, over the unique elements. It is positive semidefinite.

    Made by `mvnjac.fisher_information`, which states the formulas.

    Example:
        >>> import torch, mvnjac
        >>> F = mvnjac.fisher_information(torch.zeros(1), torch.eye(1))
        >>> F.inverse()
        tensor([[1., 0.],
                [0., 2.]])
    """

    _name = "fisher_information"
    _positive_semidefinite = True

    def __init__(self, model: Model, selection: Selection, curvature: Curvature, scale: DirectMatrix | None) -> None:
        maps, matrix = (curvature.fisher, curvature.fisher_solve), curvature.fisher_matrix(selection)
        diagonal = curvature.fisher_inverse_diagonal()
        super().__init__(model, selection, model.reduced_batch, curvature, *maps, matrix, diagonal, scale)

    @guarded("{0._name}.inverse", _LESS)
    def inverse(self) -> Float[Tensor, "*batch p p"]:
        """The inverse (*batch, p, p) if it has a closed form: n times the covariance of an efficient estimate.

        Raises:
            ArgumentError: there is no closed form (use `solve`, or select all parameters of a dense parametrisation).
            MemoryLimitError: the matrix and the work space cannot fit; raised before anything is allocated.
        """
        self._require("inverse", _BY_PRODUCTS, True, "use solve or inverse_diagonal.")
        with self._model.arithmetic():
            inverse = self._maps.closed_inverse(self._inverse_product)
        if inverse is None:
            names = ", ".join(part.name for part in self.selection.parts)
            raise ArgumentError(
                f"fisher_information.inverse: there is no closed form for {names}; use solve(b), or select all parameters of "
                "one dense parametrisation by wrt=."
            )
        return inverse.to(self.dtype)
