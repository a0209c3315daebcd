"""The Jacobian of n log-densities by x, the mean and the parameters of the covariance. Read this file first.

    parameters → factor → whitened residuals → log prob, Jacobian → coordinates → table

`jacobian` goes the first half of that way. The `Jacobian` it returns holds n·d numbers (residuals, and a = Σ⁻¹(x − µ)) and a
factor, and goes the second half only for what is asked: a block, the n×p matrix, the total, or a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, ShapeError
from mvnjac.fused.dense import fused_rows
from mvnjac.linalg.scipy_operator import linear_operator
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.parameters.names import NamesArgument
from mvnjac.parameters.selection import Selection
from mvnjac.score import row_arguments
from mvnjac.score.evaluation import Evaluation, GeneralEvaluation
from mvnjac.score.explain import explained
from mvnjac.score.fused_evaluation import FusedEvaluation
from mvnjac.tensors import memory
from mvnjac.tensors.allocation import guarded

Wrt = str | Iterable[str] | None


def jacobian(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*own d d"] | Covariance | None = None,
    *,
    names: NamesArgument | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Jacobian:
    """The Jacobian of the multivariate normal log-density: one row an observation, one column a parameter.

    Args:
        x: (n, d) observations; or (d,) for one; or (..., d), broadcast with the others as in torch.distributions. Where an
            observation is a matrix (`mvnjac.Kronecker`) and mean has its shape (..., m, q), so has x, and so have J["x"], J["mean"].
        mean: (d,) or (..., d), in units of x. Or a distribution in place of mean and covariance, of mvnjac.distributions,
            torch.distributions, Pyro or GPyTorch: the columns are then the parameters that it was given.
        covariance: Σ (..., d, d), or a structure such as `mvnjac.Cholesky(L)`, whose parameters the columns then are.
        names: d names of the variables, for columns and messages; zero-based numbers otherwise. Of `mvnjac.Kronecker` also
            [rows, columns], two lists: the variables are then called "row,column".
        missing: "marginalise" takes NaN in x as a missing entry: each row is the marginal of what it observes. J["x"] and J["mean"]
            are 0 at missing entries; a row without any entry has log_prob 0 and zeros. None: NaN in x is an error.
        precision: "float64" works float32 arguments in float64 inside and rounds the results: full float32 accuracy at any
            conditioning. None: the arithmetic is that of the arguments.
        check: look at the numbers once (one synchronisation on CUDA) and raise where they are no density. False: NaN there.

    Returns:
        A `Jacobian`. Its results carry gradients when the arguments require them.

    Raises:
        ShapeError, DtypeError, DeviceError: arguments that do not fit each other.
        NotFiniteError, NotSymmetricError, NotPositiveDefiniteError: numbers that are no density, and where.

    Source: Magnus & Neudecker, *Matrix Differential Calculus*; each structure's docstring states its formula.

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
    if fused is None or names is not None:  # arguments are parsed now, so that errors are raised now
        model = Model(parse("jacobian", mean, covariance, names=names, missing=missing, precision=precision, check=check))
        if fused is None:
            return Jacobian(GeneralEvaluation.at(model, x))
        return Jacobian(FusedEvaluation(fused, lambda: GeneralEvaluation.at_validated(model, x)))

    def general() -> GeneralEvaluation:
        return GeneralEvaluation.at_validated(Model(parse("jacobian", mean, covariance, check=check)), x)

    return Jacobian(FusedEvaluation(fused, general))


class Jacobian:
    """n rows of derivatives, held as n·d numbers. Made by `jacobian` or `Gaussian.jacobian`.

    `J[name]` is a block: the batch, followed by the parameter's own shape (a symmetric parameter gives the full symmetric
    gradient, torch's convention). `J[a:b]`, or an index tensor or a boolean mask, is the Jacobian of those rows.

    Throughout, `wrt` says which columns: names of parameters, or of single elements ("covariance_matrix[MSFT,AAPL]"); by
    default the mean and the covariance's own parameters. "x" is available by name, and so is every dense parametrisation:
    covariance_matrix, scale_tril, log_scale_tril, precision_matrix, precision_tril, inverse_scale_tril, scale,
    correlation_matrix, natural_location, natural_matrix, whichever one was given.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._evaluation,)

    @property
    def evaluation(self) -> GeneralEvaluation:
        """The derivatives as blocks, for the other packages of mvnjac."""
        return self._evaluation.general

    @property
    def model(self) -> Model:
        """The mean and the covariance, for the other packages of mvnjac."""
        return self.evaluation.model

    @property
    def batch(self) -> Size:
        """The leading dimensions, (n,) for rows of one density."""
        return self._evaluation.batch

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every result."""
        return self._evaluation.dtype

    @property
    def device(self) -> torch.device:
        """The device of every result."""
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
            return Jacobian(self.evaluation.narrow(0, row_arguments.row_index(key, self.batch, self.device)))
        return self._block(key)

    @guarded("J[{1!r}]", "take J.unique(name), J.sum(), or rows: J[a:b].")
    def _block(self, key: str) -> Tensor:
        shape = (*self.batch, *self.model.arguments.coordinates(key).shape)
        memory.require(f"J[{key!r}]", shape, self.dtype, self.device, "take J.unique(name), J.sum(), or rows: J[a:b].")
        with self.model.arithmetic():
            return self.model.arguments.shaped(key, self.evaluation.block(key).full().to(self.dtype))

    def unique(self, name: str) -> Float[Tensor, "*batch k"]:
        """The partial derivatives by the unique elements of one parameter.

        Symmetric parameters: vech order (the lower triangle column after column), off-diagonals doubled, since one element
        is two entries of the matrix. Triangular: vech of the triangle, nothing doubled. Correlations: the strict lower
        triangle, doubled. All else: row-major.

        Raises:
            UnknownNameError: a KeyError that lists the names there are.
            MemoryLimitError: before allocating what cannot fit.

        Example:
            >>> import torch, mvnjac
            >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), torch.eye(2))
            >>> J["covariance_matrix"], J.unique("covariance_matrix")
            (tensor([[[0.0000, 0.5000],
                     [0.5000, 0.0000]]]), tensor([[0., 1., 0.]]))
        """
        return self.matrix(wrt=name)

    def matrix(self, wrt: Wrt = None, layout: str = "unique", out: Tensor | None = None) -> Float[Tensor, "*batch p"]:
        """The n×p matrix whose rows are scores.

        Args:
            wrt: the columns; by default the mean and the covariance's parameters.
            layout: "unique": partial derivatives by the unique elements; "full": every entry of the full gradients, row-major.
            out: (*batch, p) to write into, of the results' dtype and device; not for arguments that require gradients.

        Returns:
            (*batch, p); the names of its columns are `columns(wrt, layout)`.

        Raises:
            MemoryLimitError: before allocating what cannot fit, naming the size and the alternatives.

        Example:
            >>> import torch, mvnjac
            >>> J = mvnjac.jacobian(torch.ones(3, 2), torch.zeros(2), torch.eye(2))
            >>> J.matrix(wrt=("mean", "covariance_matrix[1,0]")).shape
            torch.Size([3, 3])
        """
        return self._evaluation.matrix(self._columns_of(wrt, layout), out)

    def columns(self, wrt: Wrt = None, layout: str = "unique") -> list[str]:
        """The p names of the columns of `matrix(wrt, layout)`: "mean[AAPL]", "covariance_matrix[MSFT,AAPL]" (row, column)."""
        return self.selection(wrt, layout).columns()

    def values(self, wrt: Wrt = None) -> Float[Tensor, "*own p"]:
        """The values of the p parameters that the columns are derivatives by, in the same order; nothing is doubled."""
        selection = self.selection(wrt)
        if any(part.name == "x" for part in selection.parts):
            raise ArgumentError("values: x is no parameter; leave it out of wrt.")
        values = selection.pack({part.name: self.model.parameter(part.name) for part in selection.parts})
        return values.expand((*self.model.reduced_batch, values.shape[-1]))

    # --- reductions: none of them ever stores n×p ----------------------------------------------------------------

    def sum(self, weights: Float[Tensor, "*rows"] | None = None, wrt: Wrt = None) -> dict[str, Tensor]:
        """The (weighted) total score, each part in its parameter's own shape: what autograd gives for log_prob(x).sum().

        Args:
            weights: one a row, (n,) or the shape of `batch`; never normalised, may be negative.
            wrt: the parts; an element of a parameter gives its partial derivative.

        Returns:
            {name: tensor}; symmetric parameters as symmetric gradients. vech of it with doubled off-diagonals is
            matrix().sum(0).
        """
        return self._evaluation.sum(self._columns_of(wrt), weights)

    @guarded("rmatvec", "go through the rows by J[a:b].")
    def rmatvec(self, w: Float[Tensor, "*rows"], wrt: Wrt = None) -> Float[Tensor, "*own p"]:
        """wᵀ J: the weighted sum of the rows of `matrix(wrt)`, without it. w: one number a row."""
        selection, batch = self.selection(wrt), self.model.reduced_batch
        names = list(dict.fromkeys(part.name for part in selection.parts))
        sums = self.evaluation.totals(names, self.evaluation.row_weights(w, "w"), [batch] * len(names))
        return selection.pack(dict(zip(names, sums, strict=True)), gradients=True).to(self.dtype)

    @guarded("matvec", "go through the rows by J[a:b].")
    def matvec(self, v: Float[Tensor, "*any p"], wrt: Wrt = None) -> Float[Tensor, "*batch"]:
        """J v: each row's directional derivative along v (p,), in the unique elements of `matrix(wrt)`, without it."""
        selection = self.selection(wrt)
        direction = row_arguments.direction(v, selection.size).to(self.model.working)
        with self.model.arithmetic():
            products = [self.evaluation.directional(part, direction[..., at]) for part, at in selection.slices()]
            return torch.stack(torch.broadcast_tensors(*products)).sum(0).to(self.dtype)

    def linear_operator(self, wrt: Wrt = None) -> Any:
        """The n×p matrix as a `scipy.sparse.linalg.LinearOperator`, without it (needs scipy)."""
        if len(self.batch) != 1 or self.model.reduced_batch:
            raise ShapeError(
                f"linear_operator: J has the leading dimensions {tuple(self.batch)}; it takes rows (n,) of one density."
            )
        shape = (self.batch[0], self.selection(wrt).size)
        return linear_operator(shape, lambda v: self.matvec(v, wrt), lambda w: self.rmatvec(w, wrt), self.dtype, self.device)

    def gram(self, weights: Float[Tensor, "*rows"] | None = None, wrt: Wrt = None) -> Float[Tensor, "*own p p"]:
        """JᵀWJ, the (weighted) outer product of gradients, from chunks of rows that stay in cache.

        Args:
            weights: one a row (w, not w²), may be negative.
            wrt: the columns.

        Returns:
            (p, p), symmetric; with leading dimensions where mean or covariance have some.

        Raises:
            MemoryLimitError: if p×p cannot fit.
        """
        return self._evaluation.gram(self._columns_of(wrt), weights)

    def explain(self) -> str:
        """How the results will be formed, and why: which kernel or which algorithm, by the sizes at hand.

        Example:
            >>> import torch, mvnjac
            >>> print(mvnjac.jacobian(torch.ones(3, 2), torch.zeros(2), torch.eye(2)).explain().splitlines()[0])
            rows (3,) of 2 variables, Dense, cpu, float32
        """
        return explained(self._evaluation)

    # --- arguments -----------------------------------------------------------------------------------------------

    def selection(self, wrt: Wrt, layout: str = "unique") -> Selection:
        """The columns that `wrt` names, for the other packages of mvnjac."""
        return self.model.arguments.select(wrt, layout, x=True)

    def _columns_of(self, wrt: Wrt, layout: str = "unique") -> Selection | None:
        """The same; None for the default columns, so that nothing is parsed where a kernel knows them."""
        return None if wrt is None and layout == "unique" else self.selection(wrt, layout)

    def __repr__(self) -> str:
        parts = ", ".join(f"{part.name} {part.size}" for part in self.selection(None).parts)
        return f"Jacobian(batch={tuple(self.batch)}, columns: {parts}; dtype={self.dtype}, device={self.device})"
