"""The Jacobian of n log-densities by x, the mean and the parameters of the covariance. Read this file first.

    parameters → factor → whitened residuals → log prob, Jacobian → coordinates → table

`jacobian` goes the first half of that way. The `Jacobian` it returns holds n·d numbers (residuals, and a = Σ⁻¹(x − µ)) and a
factor, and goes the second half only for what is asked: a block, the n×p matrix, the total, or a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac import memory
from mvnjac.batches import RowLayout, batch_shape, narrow
from mvnjac.blocks import Block, Entrywise
from mvnjac.coordinates import vector
from mvnjac.covariance import dense_parameters
from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, ShapeError
from mvnjac.log_prob import log_density
from mvnjac.model import Model
from mvnjac.products import symmetric_product
from mvnjac.residuals import Residuals
from mvnjac.selection import Part, Selection

Wrt = str | Iterable[str] | None


def jacobian(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"],
    covariance: Float[Tensor, "*own d d"] | Covariance,
    *,
    names: Sequence[str] | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Jacobian:
    """The Jacobian of the multivariate normal log-density: one row an observation, one column a parameter.

    Args:
        x: (n, d) observations; or (d,) for one; or (..., d), broadcast with the others as in torch.distributions.
        mean: (d,) or (..., d), in units of x.
        covariance: Σ (..., d, d), or a structure such as `mvnjac.Cholesky(L)`, whose parameters the columns then are.
        names: d names of the variables, for columns and messages; zero-based numbers otherwise.
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
    model = Model("jacobian", mean, covariance, names, precision, check)
    return Jacobian(model, x, model.residuals(x))


class Jacobian:
    """n rows of derivatives, held as n·d numbers. Made by `jacobian` or `Gaussian.jacobian`.

    `J[name]` is a block: the batch, followed by the parameter's own shape (a symmetric parameter gives the full symmetric
    gradient, torch's convention). `J[a:b]`, or an index tensor or a boolean mask, is the Jacobian of those rows.

    Throughout, `wrt` says which columns: names of parameters, or of single elements ("covariance_matrix[MSFT,AAPL]"); by
    default the mean and the covariance's own parameters. "x" is available by name, and so is every dense parametrisation:
    covariance_matrix, scale_tril, log_scale_tril, precision_matrix, precision_tril, inverse_scale_tril, scale,
    correlation_matrix, natural_location, natural_matrix, whichever one was given.

    Attributes:
        batch: the leading dimensions, (n,) in the everyday case.
        dtype, device: of every result.
    """

    def __init__(self, model: Model, x: Tensor, rows: Residuals) -> None:
        self._model, self._x_batch, self._rows = model, batch_shape(x, 1), rows
        self.batch: Size = rows.batch
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = x.device

    # --- blocks --------------------------------------------------------------------------------------------------

    @property
    def log_prob(self) -> Float[Tensor, "*batch"]:
        """The log-density of each row."""
        return log_density(self._model, self._rows)

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: slice | Tensor | Sequence[int]) -> Jacobian: ...

    def __getitem__(self, key: str | slice | Tensor | Sequence[int]) -> Tensor | Jacobian:
        if not isinstance(key, str):
            return self._narrow(0, self._row_index(key))
        shape = (*self.batch, *self._model.coordinates(key).shape)
        memory.require(f"J[{key!r}]", shape, self.dtype, self.device, "take J.unique(name), J.sum(), or rows: J[a:b].")
        with self._model.arithmetic():
            return self._block(key).full().to(self.dtype)

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
        selection = self._select(wrt, layout)
        shape = (*self.batch, selection.size)
        if out is not None:
            self._check_out(out, shape)
        elif not self._rows.tracked:
            memory.require(
                "matrix", shape, self.dtype, self.device, "use sum(), gram(), matvec() or rmatvec(), which never store it; "
                "select columns by wrt=, or go through the rows by J[a:b] with out=."
            )  # fmt: skip
            out = torch.empty(shape, dtype=self.dtype, device=self.device)
        with self._model.arithmetic():
            if out is None:
                return torch.cat([self._columns(part) for part in selection.parts], -1).to(self.dtype)
            for part, at in selection.slices():
                self._columns(part, out[..., at])
        return out

    def columns(self, wrt: Wrt = None, layout: str = "unique") -> list[str]:
        """The p names of the columns of `matrix(wrt, layout)`: "mean[AAPL]", "covariance_matrix[MSFT,AAPL]" (row, column)."""
        return self._select(wrt, layout).columns()

    def values(self, wrt: Wrt = None) -> Float[Tensor, "*own p"]:
        """The values of the p parameters that the columns are derivatives by, in the same order; nothing is doubled."""
        packed = []
        for part in self._select(wrt, "unique").parts:
            if part.name == "x":
                raise ArgumentError("values: x is no parameter; leave it out of wrt.")
            value = part.coordinates.pack(self._model.parameter(part.name))
            packed.append(value if part.index is None else value[..., part.index_tensor(self.device)])
        return torch.cat([value.expand((*self._model.batch, value.shape[-1])) for value in packed], -1)

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
        parts = self._select(wrt, "unique").parts
        sums = self._totals(parts, self._weights(weights), [self._own_batch(part.name) for part in parts])
        totals: dict[str, Tensor] = {}
        for part, total in zip(parts, sums, strict=True):
            if part.index is None:
                totals[part.name] = total.to(self.dtype)
            else:
                elements = part.coordinates.pack_gradient(total)[..., part.index_tensor(self.device)].to(self.dtype)
                totals.update(zip(part.labels, elements.unbind(-1), strict=True))
        return totals

    def rmatvec(self, w: Float[Tensor, "*rows"], wrt: Wrt = None) -> Float[Tensor, "*own p"]:
        """wᵀ J: the weighted sum of the rows of `matrix(wrt)`, without it. w: one number a row."""
        parts, own = self._select(wrt, "unique").parts, self._model.batch
        sums = self._totals(parts, self._weights(w, "w"), [own] * len(parts))
        packed = [part.coordinates.pack_gradient(total) for part, total in zip(parts, sums, strict=True)]
        chosen = [
            t if part.index is None else t[..., part.index_tensor(self.device)] for part, t in zip(parts, packed, strict=True)
        ]
        return torch.cat(chosen, -1).to(self.dtype)

    def matvec(self, v: Float[Tensor, "*any p"], wrt: Wrt = None) -> Float[Tensor, "*batch"]:
        """J v: each row's directional derivative along v (p,), in the unique elements of `matrix(wrt)`, without it."""
        selection = self._select(wrt, "unique")
        if not isinstance(v, Tensor) or v.ndim == 0 or v.shape[-1] != selection.size:
            got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
            raise ShapeError(f"matvec: v has shape {got}; expected ({selection.size},), one number a column.")
        direction = v.to(self._model.working)
        with self._model.arithmetic():
            products = [self._directional(part, direction[..., at]) for part, at in selection.slices()]
            return torch.stack(torch.broadcast_tensors(*products)).sum(0).to(self.dtype)

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
        selection, own = self._select(wrt, "unique"), self._model.batch
        shape = (*own, selection.size, selection.size)
        memory.require("gram", shape, self._model.working, self.device, "select columns by wrt=.")
        row_weights = self._weights(weights)
        total = torch.zeros(shape, dtype=self._model.working, device=self.device)
        with self._model.arithmetic():
            _ = self._rows.scaled  # once for all chunks
            for rows, some in self._chunks(selection.size, row_weights, memory.CHUNK_BYTES):
                part = self._chunk_gram(selection, rows, some, own)
                total = total + part if self._rows.tracked else total.add_(part)
        return total.to(self.dtype)

    # --- the way to the blocks -----------------------------------------------------------------------------------

    def _block(self, name: str, rows: Residuals | None = None) -> Block:
        """The derivative by one parameter: of all rows, or of these."""
        rows, covariance = rows or self._rows, self._model.covariance
        if name == "x":
            return Entrywise(-rows.scaled, vector(rows.d))
        if name == "mean":
            return Entrywise(rows.scaled, vector(rows.d))
        if name in covariance.fields:
            return covariance.pullback(name, rows)
        return dense_parameters()[name].pullback(name, rows.densely())

    def _select(self, wrt: Wrt, layout: str) -> Selection:
        default, known = ["mean", *self._model.covariance.fields], ["x", *self._model.parameter_names()]
        return Selection(wrt, layout, default, known, self._model.coordinates, self._model.names)

    def _own_batch(self, name: str) -> Size:
        """The leading dimensions that a parameter has of its own: its total has them too."""
        if name == "x":
            return self._x_batch
        if name == "mean":
            return batch_shape(self._model.mean, 1)
        if name in self._model.covariance.fields:
            return self._model.covariance.parameter_batch(name)
        return self._model.covariance.batch if issubclass(dense_parameters()[name], Covariance) else self._model.batch

    # --- parts ---------------------------------------------------------------------------------------------------

    def _columns(self, part: Part, out: Tensor | None = None, rows: Residuals | None = None) -> Tensor:
        block = self._block(part.name, rows)
        if part.index is not None:
            columns = block.elements(part.coordinates, part.index_tensor(self.device))
        elif part.layout == "full":
            columns = part.coordinates.pack(block.full())
        else:
            return block.unique(out)
        return columns if out is None else out.copy_(columns)

    def _totals(self, parts: Sequence[Part], weights: Tensor | None, owns: Sequence[Size]) -> list[Tensor]:
        """The full gradients of these parts, each summed down to its batch.

        In chunks of rows, unless a graph is kept, a is there already, or x itself is among the parts.
        """
        whole = self._rows.tracked or self._rows.has_scaled or any(part.name == "x" for part in parts)
        chunks = (
            iter([(self._rows, weights)])
            if whole
            else self._chunks(self._model.d, weights, max(memory.ROW_CHUNK_BYTES, 8 * self._model.d**2))
        )
        partials: list[tuple[Tensor, ...]] = []
        with self._model.arithmetic():
            for rows, some in chunks:
                blocks = [self._block(part.name, rows) for part in parts]
                new = [block.partial(some, own) for block, own in zip(blocks, owns, strict=True)]
                partials = [_added(old, more) for old, more in zip(partials, new, strict=True)] if partials else new
            return [block.complete(partial, own) for block, partial, own in zip(blocks, partials, owns, strict=True)]

    def _directional(self, part: Part, v: Tensor) -> Tensor:
        block = self._block(part.name)
        if part.index is None:
            return block.matvec(part.coordinates.unpack(v))
        return (block.elements(part.coordinates, part.index_tensor(self.device)) * v).sum(-1)

    def _chunk_gram(self, selection: Selection, rows: Residuals, weights: Tensor | None, own: Size) -> Tensor:
        layout = RowLayout(rows.batch, own)
        columns = torch.cat([self._columns(part, rows=rows) for part in selection.parts], -1)
        folded = None if weights is None else layout.fold(weights, 0)
        return layout.unfold_own(symmetric_product(layout.fold(columns), folded), 2)

    def _chunks(self, columns: int, weights: Tensor | None, size: int) -> Iterator[tuple[Residuals, Tensor | None]]:
        """Slices of rows of about `size` bytes at so many columns, with their weights.

        Along the longest dimension that reductions run over.
        """
        rows = RowLayout(self.batch, self._model.batch).rows
        if not rows or self.batch.numel() == 0:
            yield self._rows, weights
            return
        dim = max(rows, key=lambda i: self.batch[i])
        beside = self.batch.numel() // self.batch[dim]
        step = max(size // (columns * beside * self._model.working.itemsize), 1)
        for start in range(0, self.batch[dim], step):
            at = slice(start, start + step)
            yield self._rows.narrow(dim, at), None if weights is None else narrow(weights, self.batch, 0, dim, at)

    def _narrow(self, dim: int, index: slice | Tensor) -> Jacobian:
        part = Jacobian.__new__(Jacobian)
        with torch.set_grad_enabled(torch.is_grad_enabled() or self._rows.requires_grad):  # rows of a graph stay in it
            part._model = self._model.narrow(self.batch, dim, index)
            part._rows = self._rows.narrow(dim, index)
        part._x_batch = narrow(torch.empty(self._x_batch, device="meta"), self.batch, 0, dim, index).shape
        part.batch, part.dtype, part.device = part._rows.batch, self.dtype, self.device
        return part

    # --- arguments -----------------------------------------------------------------------------------------------

    def _weights(self, weights: Tensor | None, name: str = "weights") -> Tensor | None:
        """The weights in a shape that broadcasts with the batch: one a row, or one an entry of the batch."""
        if weights is None:
            return None
        if not isinstance(weights, Tensor):
            raise ShapeError(f"{name} is a {type(weights).__name__}; pass a tensor of shape {tuple(self.batch)}.")
        rows = RowLayout(self.batch, self._model.batch).rows
        weights = weights.to(self._model.working)
        if weights.shape == self.batch:
            return weights
        if weights.shape == Size(self.batch[i] for i in rows):
            return weights.reshape([length if i in rows else 1 for i, length in enumerate(self.batch)])
        if weights.ndim == len(self.batch) and all(a in (1, b) for a, b in zip(weights.shape, self.batch, strict=True)):
            return weights.expand(self.batch)
        raise ShapeError(f"{name} has shape {tuple(weights.shape)}; expected one number a row: {tuple(self.batch)}.")

    def _row_index(self, key: slice | Tensor | Sequence[int]) -> slice | Tensor:
        if not self.batch:
            raise ShapeError("J[...]: this Jacobian is of a single observation x (d,); it has no rows to select.")
        if isinstance(key, slice):
            if key.step is not None and key.step < 1:
                raise ArgumentError(f"J[{key.start}:{key.stop}:{key.step}]: the step must be positive.")
            return key
        if isinstance(key, int) or not isinstance(key, Tensor | list | tuple):
            raise ArgumentError(
                f"J[{key!r}]: expected the name of a parameter, a slice of rows such as J[0:10], a list or tensor of row "
                "numbers, or a boolean mask."
            )
        index = torch.as_tensor(key, device=self.device)
        if index.dtype is torch.bool:
            if index.shape != self.batch[:1]:
                raise ShapeError(f"J[mask]: the mask has shape {tuple(index.shape)}; expected ({self.batch[0]},).")
            index = index.nonzero().squeeze(-1)
        return torch.where(index < 0, index + self.batch[0], index)

    def _check_out(self, out: Tensor, shape: tuple[int, ...]) -> None:
        if self._rows.tracked:
            raise ArgumentError(
                "matrix: out= cannot carry gradients, and the arguments require them; detach them, call under "
                "torch.no_grad(), or leave out= away."
            )
        expected = f"shape {tuple(shape)}, {self.dtype}, on {self.device}"
        if tuple(out.shape) != tuple(shape) or out.dtype != self.dtype or out.device != self.device:
            raise ShapeError(f"matrix: out has shape {tuple(out.shape)}, {out.dtype}, on {out.device}; expected {expected}.")

    def __repr__(self) -> str:
        parts = ", ".join(f"{part.name} {part.size}" for part in self._select(None, "unique").parts)
        return f"Jacobian(batch={tuple(self.batch)}, columns: {parts}; dtype={self.dtype}, device={self.device})"


def _added(total: tuple[Tensor, ...], more: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.add_(b) for a, b in zip(total, more, strict=True))
