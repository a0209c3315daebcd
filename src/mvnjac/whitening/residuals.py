"""Whitened residuals: the n·d numbers from which the log-density and every derivative follow.

    r = x − µ        z = L⁻¹ r        a = Σ⁻¹ r

z and a are computed once, when first needed. x − µ is computed first and raw moments are never formed, so that a common offset
causes no rounding errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Size, Tensor

from mvnjac.errors import ArgumentError
from mvnjac.kernels import planner
from mvnjac.tensors import memory
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast, narrow
from mvnjac.tensors.tracing import constant_size, is_traced, version
from mvnjac.whitening.factor import Factor


class Residuals:
    """Residuals of rows, whitened by one factor (or by one factor per group of rows).

    r, z and a are computed when first needed, since totals process x in chunks without storing all of r. An x that was changed
    in place in the meantime raises an error.

    Attributes:
        batch: the broadcast batch of x, mean and covariance.
        mean: (*param_batch, d).
        factor: the factor of the covariance.
    """

    def __init__(self, x: Tensor, mean: Tensor, factor: Factor) -> None:
        self.batch = broadcast(batch_shape(x, 1), batch_shape(mean, 1), factor.batch)
        self.mean, self.factor = mean, factor
        self.given_x, self._version = x, version(x)
        self._cache: dict[str, Tensor] = {}
        self._dense: Residuals | None = None
        self._source: Residuals | None = None  # the residuals of which these are an expanded view
        self._workspace: memory.Workspace | None = None
        self._take()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_version": version(self.given_x) == self._version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copied x has a new version counter; an x that was changed before stays marked as changed."""
        vars(self).update(state)
        self._version = version(self.given_x) if state["_version"] else -1

    def _take(self) -> None:
        """Compute r at once if autograd tracks changes of x, or if changes cannot be detected."""
        if self.is_traced or self._version is None:
            _ = self.residual

    @property
    def d(self) -> int:
        """The number of variables."""
        return constant_size(self.mean)

    @property
    def x(self) -> Tensor:
        """The observations; raises ArgumentError if they were changed in place."""
        self._require_unchanged()
        return self.given_x

    @property
    def is_traced(self) -> bool:
        """Whether an autograd graph, a transform or a compiler is active, so that results need plain torch operations."""
        return is_traced(self.given_x, self.mean, *self.factor.tensors())

    @property
    def requires_grad(self) -> bool:
        """Whether x, the mean or the factor requires gradients."""
        return self.given_x.requires_grad or self.mean.requires_grad or self.factor.requires_grad

    @property
    def residual(self) -> Tensor:
        """r = x − µ: (*batch, d)."""
        if self._source is not None:
            return self._source.residual.expand((*self.batch, self.d))
        if "residual" not in self._cache:
            self._require_unchanged()
            out = self._reused("residual", (*broadcast(batch_shape(self.given_x, 1), batch_shape(self.mean, 1)), self.d))
            with self.grad_mode():
                x = self.given_x.to(self.mean.dtype)
                difference = x - self.mean if out is None else torch.sub(x, self.mean, out=out)
                self._cache["residual"] = difference.expand((*self.batch, self.d))
        return self._cache["residual"]

    @property
    def whitened(self) -> Tensor:
        """z = L⁻¹ r with Σ = L Lᵀ, L lower triangular: (*batch, d); a structure may use another z with the same ‖z‖²."""
        return self._cached("whitened", self.factor.whiten)

    @property
    def reverse_whitened(self) -> Tensor:
        """s = Λᵀ r with Σ⁻¹ = Λ Λᵀ, Λ lower triangular: (*batch, d)."""
        return self._cached("reverse_whitened", self.factor.reverse_whiten)

    @property
    def scaled(self) -> Tensor:
        """a = Σ⁻¹ r: (*batch, d)."""
        out = self._reused("scaled", (*self.batch, self.d)) if len(self.batch) == 1 and not self.factor.batch else None
        if self.factor.unwhitens:
            return self._cached("scaled", lambda _, layout: self.factor.unwhiten(layout.fold(self.whitened), layout, out))
        return self._cached("scaled", lambda rows, layout: self.factor.solve(rows, layout, out))

    @property
    def unbatched(self) -> bool:
        """Whether these are rows (n, d) of one density, without tracing (the common case, which kernels support)."""
        one = len(self.batch) == 1 and self.mean.ndim == 1 and not self.factor.batch and self._source is None
        return one and not self.is_traced

    def cached(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """The result of `compute` (*batch, …), which is called once."""
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]

    @property
    def has_scaled(self) -> bool:
        """Whether a is already computed, or an expanded view of a smaller array."""
        return "scaled" in self._cache or self._source is not None

    @property
    def log_prob(self) -> Tensor:
        """(*batch) −½ (d log 2π + log det Σ + ‖z‖²); both kinds of whitening have the same norm."""
        return self.log_prob_of(self._square())

    def log_prob_of(self, squares: Tensor) -> Tensor:
        """The log-density, from ‖z‖²."""
        return -0.5 * (self.d * math.log(2 * math.pi) + self.factor.log_det + squares)

    def _square(self) -> Tensor:
        """‖z‖² of each row. If z is not computed yet and nothing is traced, it is formed in chunks of rows and discarded."""
        name = "whitened" if self.factor.whitens_forward else "reverse_whitened"
        step = planner.rows_in(planner.ROW_CHUNK_BYTES, self.d, self.mean.element_size())
        squares = self.factor.squares(self) if self.unbatched and name not in self._cache else None
        if squares is not None:
            return squares
        # This comes first: under tracing the number of rows may be symbolic and must not be compared.
        whole = self.is_traced or name in self._cache or self._source is not None
        if whole or len(self.batch) != 1 or self.mean.ndim > 1 or self.factor.batch or self.batch[0] <= step:
            z = getattr(self, name)
            return (z * z).sum(-1)
        square, workspace = self.mean.new_empty(self.batch), memory.Workspace()
        for start in range(0, self.batch[0], step):
            z = getattr(self.narrow(0, slice(start, start + step), workspace), name)
            torch.linalg.vector_norm(z, dim=-1, out=square[start : start + step])
        return square.square_()

    def densely(self) -> Residuals:
        """The same rows with the dense factor, for derivatives with respect to dense parameters."""
        dense = self.factor.dense()
        if dense is self.factor:
            return self
        if self._dense is None:
            with self.grad_mode():
                self._dense = Residuals(self.given_x, self.mean, dense)
                self._dense._cache = {"residual": self.residual, "scaled": self.scaled}
        return self._dense

    def part(self, at: slice, factor: Factor) -> Residuals:
        """Some of the variables, independent of the others, with their factor; r and a are slices of these."""
        with self.grad_mode():
            part = Residuals(self.given_x[..., at], self.mean[..., at], factor)
            part.batch = self.batch
            part._cache = {"residual": self.residual[..., at], "scaled": self.scaled[..., at]}
        return part

    def expand(self, batch: Size) -> Residuals:
        """The same rows expanded to a larger batch; they are computed only once."""
        if batch == self.batch:
            return self
        wide = Residuals(self.given_x, self.mean, self.factor)
        wide.batch, wide._source = batch, self
        return wide

    def narrow(self, dim: int, index: slice | Tensor, workspace: memory.Workspace | None = None) -> Residuals:
        """Some of the rows along a dimension of the batch; operands shared by the rows stay shared.

        workspace: memory for the results, which are valid until it is used for other rows.
        """
        self._require_unchanged()
        with self.grad_mode():
            part = Residuals(
                narrow(self.given_x, self.batch, 1, dim, index),
                narrow(self.mean, self.batch, 1, dim, index),
                self.factor.narrow(self.batch, dim, index),
            )
            part._cache = {name: narrow(t, self.batch, 1, dim, index) for name, t in self._cache.items()}
        part._workspace = workspace
        return part

    def _require_unchanged(self) -> None:
        if "residual" not in self._cache and version(self.given_x) != self._version:
            raise changed_in_place("x")

    def _reused(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        return None if self._workspace is None else self._workspace.take(name, self.mean, shape)

    def grad_mode(self) -> AbstractContextManager[None]:
        """A context with gradients if the operands require them: a later `no_grad` must not silently detach the results."""
        return torch.set_grad_enabled(torch.is_grad_enabled() or self.requires_grad)

    def _cached(self, name: str, compute: Callable[[Tensor, RowLayout], Tensor]) -> Tensor:
        if self._source is not None:
            return getattr(self._source, name).expand((*self.batch, -1))
        if name not in self._cache:
            layout = RowLayout(self.batch, self.factor.batch)
            with self.grad_mode():
                self._cache[name] = layout.unfold(compute(layout.fold(self.residual), layout))
        return self._cache[name]


def changed_in_place(what: str) -> ArgumentError:
    """The error for an argument of a Jacobian that was changed in place after it was checked."""
    return ArgumentError(
        f"Jacobian: {what} was changed in place after the Jacobian was created; create it again, or pass a clone of {what}."
    )
