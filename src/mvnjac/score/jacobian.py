"""The Jacobian of n log-densities with respect to x, the mean and the parameters of the covariance. Read this file first.

    arguments → model → factor → whitened residuals → log-density and blocks → columns, totals

`jacobian` parses and checks the arguments. The `Jacobian` it returns holds a factor and n·d numbers (residuals, and
a = Σ⁻¹(x − µ)), and computes a block, the n×p matrix, a total or a product only when it is requested.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError
from mvnjac.fused.dense import fused_rows
from mvnjac.model.arguments import parse
from mvnjac.model.inputs import density_of, with_rows
from mvnjac.model.model import Model
from mvnjac.parameters.names import NamesArgument
from mvnjac.parameters.selection import Selection
from mvnjac.score import row_arguments
from mvnjac.score.evaluation import Evaluation, GeneralEvaluation
from mvnjac.score.explain import explained
from mvnjac.score.export import LabelledMatrix
from mvnjac.score.fused_evaluation import FusedEvaluation
from mvnjac.tables.row_index import RowIndex
from mvnjac.tensors import memory
from mvnjac.tensors.allocation import guarded

Wrt = str | Iterable[str] | None
_SMALLER = "use J.unique(name) or J.sum(), or take fewer rows, J[a:b]."  # the remedy in a MemoryLimitError


def jacobian(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*param_batch d d"] | Covariance | None = None,
    *,
    names: NamesArgument | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Jacobian:
    """The Jacobian of the multivariate normal log-density, with one row per observation and one column per parameter.

    Args:
        x: (n, d) observations, (d,) for a single one, or (..., d), broadcast with the parameters as in torch.distributions.
            With `mvnjac.Kronecker` observations may be matrices: x, mean, J["x"] and J["mean"] then have shape (..., m, q).
        mean: (d,) or (..., d), in the units of x. A distribution of mvnjac.distributions, torch.distributions, Pyro or GPyTorch
            may be passed in place of mean and covariance; the columns are then the parameters that it was constructed with.
        covariance: Σ (..., d, d), or a structure such as `mvnjac.Cholesky(L)`; the columns are then the structure's parameters.
        names: the names of the d variables, used in column names and messages; by default the variables are numbered from 0.
            With `mvnjac.Kronecker`, two lists [rows, columns] are also accepted; the variables are then named "row,column".
        missing: "marginalise" treats NaN in x as a missing entry: each row has the marginal density of its observed entries.
            J["x"] and J["mean"] are 0 at missing entries; a row without observed entries has log-density 0 and derivatives 0.
            With None, NaN in x is an error.
        precision: "float64" computes internally in float64 for float32 arguments and rounds the results, which gives full
            float32 accuracy at any conditioning. With None, computations use the dtype of the arguments.
        check: whether the values are checked (once, with one synchronisation on CUDA) and invalid ones raise an error. With
            False the results are NaN where the arguments define no density.

    Returns:
        A `Jacobian`. Its results are differentiable if the arguments require gradients.

    Raises:
        ShapeError, DtypeError, DeviceError: shapes, dtypes or devices do not match.
        NotFiniteError, NotSymmetricError, NotPositiveDefiniteError: values are invalid; the message says where.

    Source: Magnus & Neudecker, *Matrix Differential Calculus*; the docstring of each structure states its formula.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> J = mvnjac.jacobian(x, torch.zeros(2), torch.eye(2), names=["AAPL", "MSFT"])
        >>> J.columns()[2:]
        ['covariance_matrix[AAPL,AAPL]', 'covariance_matrix[MSFT,AAPL]', 'covariance_matrix[MSFT,MSFT]']
        >>> J.matrix()
        tensor([[ 1.0000,  0.0000,  0.0000,  0.0000, -0.5000],
                [ 0.0000,  2.0000, -0.5000,  0.0000,  1.5000]])
    """
    fused = fused_rows(x, mean, covariance, check=check) if missing is None and precision is None else None
    if fused is None or names is not None:  # parse the arguments now, so that errors are raised here
        given = with_rows(
            density_of("jacobian", mean, covariance, names=names, missing=missing, precision=precision, check=check), x
        )
        if fused is None:
            return Jacobian(GeneralEvaluation.at(given.model, given.x), given.index)
        return Jacobian(FusedEvaluation(fused, lambda: GeneralEvaluation.at_validated(given.model, x)))

    def general() -> GeneralEvaluation:
        return GeneralEvaluation.at_validated(Model(parse("jacobian", mean, covariance, check=check)), x)

    return Jacobian(FusedEvaluation(fused, general))


class Jacobian(LabelledMatrix):
    """The derivatives of n log-densities, stored as n·d numbers. Made by `jacobian` or `Gaussian.jacobian`.

    `J[name]` is the derivative with respect to one parameter, of shape (*batch, *shape of the parameter). For a symmetric
    parameter it is the full symmetric gradient, as in torch. `J[rows]`, with a slice, an index tensor or a boolean mask, is
    the Jacobian of these rows.

    The argument `wrt` of the methods selects columns, by names of parameters or of single elements such as
    "covariance_matrix[MSFT,AAPL]"; by default these are the mean and the parameters of the covariance. The name "x" and the
    parameters of every dense parametrisation are also available, whichever parametrisation was given: covariance_matrix,
    scale_tril, log_scale_tril, precision_matrix, precision_tril, inverse_scale_tril, scale, correlation_matrix,
    natural_location and natural_matrix. `J.index` holds the row labels of a table.
    """

    def __init__(self, evaluation: Evaluation, index: RowIndex | None = None) -> None:
        self._evaluation, self._index = evaluation, index

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._evaluation, self._index)

    @property
    def evaluation(self) -> GeneralEvaluation:
        """The derivatives as blocks; for other packages of mvnjac."""
        return self._evaluation.general

    @property
    def model(self) -> Model:
        """The mean and the covariance; for other packages of mvnjac."""
        return self.evaluation.model

    @property
    def batch(self) -> Size:
        """The leading dimensions of the results: (n,) for n rows of one density."""
        return self._evaluation.batch

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the results."""
        return self._evaluation.dtype

    @property
    def device(self) -> torch.device:
        """The device of the results."""
        return self._evaluation.device

    # --- blocks --------------------------------------------------------------------------------------------------

    @property
    def log_prob(self) -> Float[Tensor, "*batch"]:
        """The log-density of each row."""
        return self._evaluation.log_prob()

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: slice | Tensor | Sequence[int]) -> Jacobian: ...

    def __getitem__(self, key: str | slice | Tensor | Sequence[int]) -> Tensor | Jacobian:
        if not isinstance(key, str):
            rows = row_arguments.row_index(key, self.batch, self.device)
            return Jacobian(self.evaluation.narrow(0, rows), None if self._index is None else self._index.take(rows))
        return self._block(key)

    @guarded("J[{1!r}]", _SMALLER)
    def _block(self, key: str) -> Tensor:
        shape = (*self.batch, *self.model.arguments.coordinates(key).shape)
        memory.require(f"J[{key!r}]", shape, self.dtype, self.device, _SMALLER)
        with self.model.arithmetic():
            return self.model.arguments.shaped(key, self.evaluation.block(key).full().to(self.dtype))

    def unique(self, name: str) -> Float[Tensor, "*batch k"]:
        """The partial derivatives (*batch, k) with respect to the k unique elements of the parameter `name`.

        Symmetric parameters: in vech order (the lower triangle, column by column), with off-diagonals doubled, since each
        off-diagonal element occurs twice in the matrix. Triangular parameters: vech of the triangle; nothing is doubled.
        Correlations: the strict lower triangle, doubled. All other parameters: row-major.

        Raises:
            UnknownNameError: the name is not valid; a KeyError that lists the valid names.
            MemoryLimitError: there is not enough memory for the result; raised before allocating.

        Example:
            >>> import torch, mvnjac
            >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), torch.eye(2))
            >>> J["covariance_matrix"], J.unique("covariance_matrix")
            (tensor([[[0.0000, 0.5000],
                     [0.5000, 0.0000]]]), tensor([[0., 1., 0.]]))
        """
        return self.matrix(wrt=name)

    def matrix(self, wrt: Wrt = None, layout: str = "unique", out: Tensor | None = None) -> Float[Tensor, "*batch p"]:
        """The n×p matrix of derivatives; each row is the score of one observation.

        Args:
            wrt: the columns; by default the mean and the parameters of the covariance.
            layout: "unique": derivatives with respect to the unique elements; "full": the full gradients, row-major.
            out: (*batch, p) a tensor for the result, of its dtype and device; not allowed if the arguments require gradients.

        Returns:
            (*batch, p); the names of its columns are `columns(wrt, layout)`.

        Raises:
            MemoryLimitError: there is not enough memory for the result; raised before allocating, with alternatives.

        Example:
            >>> import torch, mvnjac
            >>> J = mvnjac.jacobian(torch.ones(3, 2), torch.zeros(2), torch.eye(2))
            >>> J.matrix(wrt=("mean", "covariance_matrix[1,0]")).shape
            torch.Size([3, 3])
        """
        return self._evaluation.matrix(self._columns_of(wrt, layout), out)

    def columns(self, wrt: Wrt = None, layout: str = "unique") -> list[str]:
        """The names of the p columns of `matrix(wrt, layout)`, such as "mean[AAPL]" and "covariance_matrix[MSFT,AAPL]"."""
        return self.selection(wrt, layout).columns()

    def values(self, wrt: Wrt = None) -> Float[Tensor, "*param_batch p"]:
        """The values of the parameters that the columns belong to, in the order of the columns; nothing is doubled."""
        selection = self.selection(wrt)
        if any(part.name == "x" for part in selection.parts):
            raise ArgumentError("values: x is not a parameter; leave it out of wrt.")
        values = selection.pack({part.name: self.model.parameter(part.name) for part in selection.parts})
        return values.expand((*self.model.reduced_batch, values.shape[-1]))

    # --- sums over rows, products: none of them stores the n×p matrix --------------------------------------------

    def sum(self, weights: Float[Tensor, "*rows"] | None = None, wrt: Wrt = None) -> dict[str, Tensor]:
        """The (weighted) total score: the gradients that autograd computes for log_prob(x).sum().

        Args:
            weights: (n,), one per row, or of the shape of `batch`; they are not normalised and may be negative.
            wrt: parameters, or single elements, for which the partial derivative is returned.

        Returns:
            {name: gradient of the shape of the parameter}. The gradient of a symmetric parameter is the full symmetric one; its
            vech with doubled off-diagonals equals matrix().sum(0).
        """
        return self._evaluation.sum(self._columns_of(wrt), weights)

    @guarded("rmatvec", "process the rows in slices J[a:b].")
    def rmatvec(self, w: Float[Tensor, "*rows"], wrt: Wrt = None) -> Float[Tensor, "*param_batch p"]:
        """The product wᵀ J, a weighted sum of the rows of `matrix(wrt)`, without forming the matrix. w: one number per row."""
        selection, batch = self.selection(wrt), self.model.reduced_batch
        names = list(dict.fromkeys(part.name for part in selection.parts))
        sums = self.evaluation.totals(names, self.evaluation.row_weights(w, "w"), [batch] * len(names))
        return selection.pack(dict(zip(names, sums, strict=True)), gradients=True).to(self.dtype)

    @guarded("matvec", "process the rows in slices J[a:b].")
    def matvec(self, v: Float[Tensor, "*any p"], wrt: Wrt = None) -> Float[Tensor, "*batch"]:
        """The product J v, the directional derivative of each row along v (p,), without forming `matrix(wrt)`."""
        selection = self.selection(wrt)
        direction = row_arguments.direction(v, selection.size).to(self.model.working)
        with self.model.arithmetic():
            products = [self.evaluation.directional(part, direction[..., at]) for part, at in selection.slices()]
            return torch.stack(torch.broadcast_tensors(*products)).sum(0).to(self.dtype)

    def gram(self, weights: Float[Tensor, "*rows"] | None = None, wrt: Wrt = None) -> Float[Tensor, "*param_batch p p"]:
        """JᵀWJ, the (weighted) sum of outer products of scores, computed in chunks of rows that stay in the cache.

        Args:
            weights: (n,), one per row (w, not w²); may be negative.
            wrt: the columns; by default the mean and the parameters of the covariance.

        Returns:
            (p, p), symmetric; preceded by the leading dimensions of mean and covariance, if there are any.

        Raises:
            MemoryLimitError: there is not enough memory for a p×p matrix.
        """
        return self._evaluation.gram(self._columns_of(wrt), weights)

    def explain(self) -> str:
        """A description of how each result will be computed: the kernel or algorithm that is chosen, with the reason.

        Example:
            >>> import torch, mvnjac
            >>> print(mvnjac.jacobian(torch.ones(3, 2), torch.zeros(2), torch.eye(2)).explain().splitlines()[0])
            rows (3,) of 2 variables, Dense, cpu, float32
        """
        return explained(self._evaluation)

    # --- arguments -----------------------------------------------------------------------------------------------

    def selection(self, wrt: Wrt, layout: str = "unique") -> Selection:
        """The columns selected by `wrt`; for other packages of mvnjac."""
        return self.model.arguments.select(wrt, layout, x=True)

    def _size(self, wrt: Wrt = None) -> int:
        return self.selection(wrt).size

    def _columns_of(self, wrt: Wrt, layout: str = "unique") -> Selection | None:
        """The selected columns; None for the default columns, so that kernels need not parse names."""
        return None if wrt is None and layout == "unique" else self.selection(wrt, layout)

    def __repr__(self) -> str:
        parts = ", ".join(f"{part.name} {part.size}" for part in self.selection(None).parts)
        return f"Jacobian(batch={tuple(self.batch)}, columns: {parts}; dtype={self.dtype}, device={self.device})"
