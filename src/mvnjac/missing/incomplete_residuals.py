"""Rows with missing entries: each is the marginal of what it observes.

Everything is said in the coordinates that whiten Σ = L Lᵀ. Of a row observed on o, let a = Σ_oo⁻¹ r_o, with 0 in the other places,
and P° = Σ_oo⁻¹, likewise. Then the gradient by Σ is ½ (a aᵀ − P°), and with the imputed residual r̂ = Σ a, z = L⁻¹ r̂ and
Π = Lᵀ P° L, a projection,

    Lᵀ G L = ½ (z zᵀ − Π)        that is, the complete row's ½ (z zᵀ − I) at the imputed residual, plus ½ (I − Π)

so that each parameter's derivative is its formula for complete rows at r̂, shifted by a constant of the row's pattern. Along a chain
of nested patterns (`statistics/patterns.py`), with L_c the Cholesky factor of Σ in the chain's order and m the row's mask in that
order,

    z_c = m ∘ L_c⁻¹ r        a = L_c⁻ᵀ z_c        Π = Tᵀ diag(m) T,    T = L_c⁻¹ L orthogonal

Structures that keep their form when variables are left out are not treated so, but by a structure a pattern (`missing/marginals.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Size, Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.kernels import planner
from mvnjac.missing.marginals import Marginals
from mvnjac.missing.nested_cholesky import MonotoneGroup
from mvnjac.statistics.patterns import alone, bundled, distinct
from mvnjac.tensors import memory
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast, narrow, sum_to
from mvnjac.tensors.memory import Workspace
from mvnjac.tensors.tracing import is_concrete, to_numpy
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals

#: bytes of the constants of patterns, d×d each, that are formed at a time
_CHUNK_BYTES = 16 * 2**20


class IncompleteResiduals(Residuals):
    """Rows with missing entries: `residual` is the imputed one, `scaled` is 0 where an entry is missing.

    Attributes:
        observed: (*batch of x, d) which entries are there.
        together: whether rows are grouped by what they observe; else (each has a covariance of its own, or x cannot be looked at)
            each is by itself.
        layout: the batch as rows (N) and covariances (G).
    """

    def __init__(
        self, x: Tensor, mean: Tensor, covariance: Covariance, factor: Factor, observed: Tensor, grouped: bool = True
    ) -> None:
        self.covariance, self.observed = covariance, observed
        self.batch = broadcast(batch_shape(x, 1), batch_shape(mean, 1), factor.batch)
        layout = RowLayout(self.batch, factor.batch)
        offset = len(self.batch) - (x.ndim - 1)
        self.grouped = grouped and is_concrete(observed) and all(i < offset or x.shape[i - offset] == 1 for i in layout.groups)
        self.layout = layout if self.grouped else RowLayout(self.batch, Size())
        self._chains: list[MonotoneGroup] | None = None
        self._rotations: list[tuple[MonotoneGroup, Tensor]] | None = None
        self._at: Tensor | None = None  # where a row is found in the chains
        self._marginals: Marginals | None = None
        self._groups: list[Residuals] | None = None
        self._wanted_grouped = grouped
        self._keeps_form: bool | None = None
        super().__init__(torch.where(observed, x, 0), mean, factor)

    def _take(self) -> None:
        """x is a copy: nobody changes it."""

    @property
    def x(self) -> Tensor:
        return torch.where(self.observed, self.given_x, torch.nan)

    @property
    def mask(self) -> Tensor:
        """(N, d) what each row observes."""
        mask = self.layout.fold(self.observed)
        return mask[0] if self.layout.groups else mask

    @property
    def groups(self) -> list[Residuals]:
        """The rows of each independent group of variables, with or without missing entries."""
        if self._groups is None:
            with self.grad_mode():
                self._groups = [self._group(*group) for group in self.covariance.groups(self.factor)]
        return self._groups

    def _group(self, at: slice, covariance: Covariance, factor: Factor) -> Residuals:
        x = self.given_x[..., at].expand((*self.batch, at.stop - at.start))
        observed = self.observed[..., at].expand(x.shape)
        if is_concrete(observed) and bool(to_numpy(observed).all()):
            return Residuals(x, self.mean[..., at], factor)
        return IncompleteResiduals(x, self.mean[..., at], covariance, factor, observed, self._wanted_grouped)

    @property
    def keeps_form(self) -> bool:
        """Whether each pattern's marginal is a structure of the same kind."""
        if self._keeps_form is None:
            keeps = self.grouped and self.covariance.keeps_marginals
            few = keeps and planner.keeps_form(len(distinct(to_numpy(self.mask))[0]), self.d)
            self._keeps_form = keeps and few
        return self._keeps_form

    @property
    def visible(self) -> Tensor:
        """(N, d) r where an entry is observed, else 0: folded."""
        mean = self.mean
        return self.layout.fold(torch.where(self.observed, self.given_x.to(mean.dtype) - mean, 0))

    # --- by a structure a pattern ----------------------------------------------------------------------------------

    @property
    def marginals(self) -> Marginals:
        """Of a structure that keeps its form: one a pattern."""
        if self._marginals is None:
            with self.grad_mode():
                self._marginals = Marginals(self.covariance, self.visible, self.mask, self.layout)
        return self._marginals

    # --- by chains -------------------------------------------------------------------------------------------------

    @property
    def covariance_matrix(self) -> Tensor:
        """Σ, of each covariance (G?, d, d); of rows by themselves (N, d, d)."""
        covariance_matrix = self.factor.dense().covariance_matrix
        fold = self.layout.fold_params if self.grouped else self.layout.fold
        return fold(covariance_matrix, 2)

    @property
    def scale_tril(self) -> Tensor:
        """L, likewise."""
        return (self.layout.fold_params if self.grouped else self.layout.fold)(self.factor.dense().scale_tril, 2)

    @property
    def chains(self) -> list[MonotoneGroup]:
        """The rows, bundle by bundle."""
        if self._chains is None:
            bundles, self._at = bundled(self.mask) if self.grouped else alone(self.mask)
            self._require("chains of patterns", sum(len(bundle.mask) for bundle in bundles), 3)
            with self.grad_mode():
                covariance_matrix, visible = self.covariance_matrix, self.visible
                self._chains = [MonotoneGroup(bundle, covariance_matrix, visible) for bundle in bundles]
        return self._chains

    @property
    def rotations(self) -> list[tuple[MonotoneGroup, Tensor]]:
        """Each bundle's chains with their T (G?, C, d, d)."""
        if self._rotations is None:
            self._require("chains of patterns", sum(len(chains.mask) for chains in self.chains), 2)
            with self.grad_mode():
                scale_tril = self.scale_tril
                self._rotations = [(chains, chains.rotation(scale_tril)) for chains in self.chains]
        return self._rotations

    def _require(self, what: str, count: int, times: int) -> None:
        """Refuse so many d×d matrices for each of so many chains or patterns, if they cannot fit."""
        shape = (*self.layout.group_shape, count, self.d, self.d)
        memory.require_work(
            f"missing entries in {what}", shape, self.mean.dtype, self.mean.device, times, 0, "take fewer rows at a time, or "
            "fewer variables."
        )  # fmt: skip

    def gathered(self, of_chains: list[Tensor], event: int) -> Tensor:
        """(G?, C, R, *event), bundle by bundle → (*batch, *event)."""
        flat = torch.cat([t.flatten(t.ndim - event - 2, t.ndim - event - 1) for t in of_chains], -event - 1)
        return self.layout.unfold(flat if self._at is None else flat.index_select(flat.ndim - event - 1, self._at), event)

    # --- as rows ---------------------------------------------------------------------------------------------------

    @property
    def has_scaled(self) -> bool:
        return True

    @property
    def everyday(self) -> bool:
        return False

    @property
    def scaled(self) -> Tensor:
        if "scaled" not in self._cache:
            with self.grad_mode():
                self._cache["scaled"] = self._scaled().expand((*self.batch, self.d))
        return self._cache["scaled"]

    def _scaled(self) -> Tensor:
        if self.groups:
            return torch.cat([rows.scaled for rows in self.groups], -1)
        return self.marginals.scaled() if self.keeps_form else self.gathered([c.scaled for c in self.chains], 1)

    @property
    def residual(self) -> Tensor:
        """r̂ = Σ a: what is observed, and the conditional expectation of what is not, less the mean."""
        if "residual" not in self._cache:
            with self.grad_mode():
                layout = RowLayout(self.batch, self.factor.batch)
                imputed = layout.unfold(layout.fold(self.scaled) @ layout.fold_params(self.factor.dense().covariance_matrix, 2))
                self._cache["residual"] = torch.where(self.observed, self.given_x.to(self.mean.dtype) - self.mean, imputed)
        return self._cache["residual"]

    @property
    def log_prob(self) -> Tensor:
        """(*batch) of the marginals: 0 where nothing is observed."""
        with self.grad_mode():
            if self.groups:
                return torch.stack([rows.log_prob for rows in self.groups]).sum(0)
            if self.keeps_form:
                return self.marginals.log_prob()
            return -0.5 * self.gathered([chains.quadratic for chains in self.chains], 0)

    def separate(self) -> IncompleteResiduals:
        """The same rows, each by itself."""
        with self.grad_mode():
            return IncompleteResiduals(self.given_x, self.mean, self.covariance, self.factor, self.observed, grouped=False)

    def expand(self, batch: Size) -> Residuals:
        if batch == self.batch:
            return self
        x = self.given_x.expand((*batch, self.d))
        return IncompleteResiduals(x, self.mean, self.covariance, self.factor, self.observed.expand(x.shape))

    def narrow(self, dim: int, index: slice | Tensor, workspace: Workspace | None = None) -> Residuals:
        with self.grad_mode():
            part = IncompleteResiduals(
                narrow(self.given_x, self.batch, 1, dim, index),
                narrow(self.mean, self.batch, 1, dim, index),
                self.covariance.narrow(self.batch, dim, index)
                if dim >= len(self.batch) - len(self.factor.batch)
                else self.covariance,
                self.factor.narrow(self.batch, dim, index),
                narrow(self.observed, self.batch, 1, dim, index),
            )
            part._cache = {name: narrow(t, self.batch, 1, dim, index) for name, t in self._cache.items()}
        return part

    # --- what a pattern adds to the formulas for complete rows -------------------------------------------------------

    def shifts(self) -> tuple[Tensor, Tensor | None]:
        """½ (I − Π) in whitened coordinates: (G?, P, d, d) of the patterns and (N,) which one a row has; else of each row."""
        if not self.grouped:
            ((chains, T),) = self.rotations
            T = torch.where(chains.mask.mT, T, 0)
            return self._shift(T), None
        self._require("patterns", sum(chains.bundle.patterns.shape[-1] for chains in self.chains), 2)
        return torch.cat(list(self.shifts_by_chunks()), -3), self.patterns

    def shifts_by_chunks(self) -> Iterator[Tensor]:
        """(G?, …, d, d) those of the patterns, some at a time, of rows that are together."""
        step = max(1, _CHUNK_BYTES // (self.mean.dtype.itemsize * self.d**2))
        for chains, T in self.rotations:
            of_chain, length = chains.bundle.patterns
            prefix = torch.arange(self.d, dtype=torch.long, device=length.device) < length.unsqueeze(-1)
            for some in (slice(first, first + step) for first in range(0, len(length), step)):
                yield self._shift(torch.where(prefix[some].unsqueeze(-1), T[..., of_chain[some], :, :], 0))

    def _shift(self, T: Tensor) -> Tensor:
        return 0.5 * (torch.eye(self.d, dtype=T.dtype, device=T.device) - T.mT @ T)

    @property
    def patterns(self) -> Tensor:
        """(N,) which pattern a row has, in the order of `shifts`, of rows that are together."""
        which, first = [], 0
        for chains in self.chains:
            which.append(chains.bundle.pattern.flatten() + first)
            first += chains.bundle.patterns.shape[-1]
        return torch.cat(which)[self._at]

    def summed_shift(self, weights: Tensor | None) -> Tensor:
        """(*param_batch, d, d) Σ w ½ (I − Π), of rows that are together; weights of the rows' batch."""
        total: Any = 0
        for chains, T in self.rotations:
            counts = self.counts(chains, weights)
            total = total + T.flatten(-3, -2).mT @ (counts.unsqueeze(-1) * T).flatten(-3, -2)
        identity = torch.eye(self.d, dtype=self.mean.dtype, device=self.mean.device)
        n = self.layout.n_rows if weights is None else self.layout.fold(weights, 0).sum(-1)[..., None, None]
        return self.layout.unfold_params(0.5 * (n * identity - total).expand((*self.layout.group_shape, self.d, self.d)), 2)

    def counts(self, chains: MonotoneGroup, weights: Tensor | None) -> Tensor:
        """(G?, C, d) the (weighted) number of rows that observe each variable."""
        mask = chains.mask.to(self.mean.dtype)
        if weights is None:
            return mask.sum(-2)
        return (self.of_rows(chains, weights).unsqueeze(-1) * mask).sum(-2)

    def of_rows(self, chains: MonotoneGroup, weights: Tensor) -> Tensor:
        """(G?, C, R) the weights of a bundle's rows."""
        return self.layout.fold(weights, 0)[..., chains.bundle.rows]

    def summed(self, shift: Tensor, weights: Tensor | None, param_batch: Size, event: int) -> Tensor:
        """A sum over rows (*batch, *event), each row's weighted."""
        factor = 1 if weights is None else weights.reshape((*weights.shape, *(1,) * event))
        return sum_to((shift * factor).expand((*self.batch, *shift.shape[shift.ndim - event :])), param_batch, event)
