"""Rows with missing entries: each row has the marginal density of its observed entries.

All formulas use the coordinates that whiten Σ = L Lᵀ. For a row observed on o, let a = Σ_oo⁻¹ r_o and P° = Σ_oo⁻¹, both with 0
in the other places. The gradient with respect to Σ is G = ½ (a aᵀ − P°). With the imputed residual r̂ = Σ a, z = L⁻¹ r̂ and the
projection Π = Lᵀ P° L,

    Lᵀ G L = ½ (z zᵀ − Π),   the gradient ½ (z zᵀ − I) of a complete row at the imputed residual, plus ½ (I − Π).

The derivative with respect to any parameter is therefore its formula for complete rows at r̂, plus a constant of the pattern of
the row (`missing/pattern_shifts.py`). In a monotone group (`statistics/patterns.py`) the patterns are nested. With L_c the
Cholesky factor of Σ in the group's order of the variables and m the mask of a row in that order,

    z_c = m ∘ L_c⁻¹ r        a = L_c⁻ᵀ z_c        Π = Tᵀ diag(m) T,    T = L_c⁻¹ L orthogonal.

Structures whose marginals are of the same structure use one marginal structure per pattern instead (`missing/marginals.py`).
"""

from __future__ import annotations

import torch
from torch import Size, Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.kernels import planner
from mvnjac.missing.marginals import Marginals
from mvnjac.missing.nested_cholesky import FactoredBatch
from mvnjac.statistics.patterns import alone, bundled, distinct
from mvnjac.tensors import memory
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast, narrow
from mvnjac.tensors.memory import Workspace
from mvnjac.tensors.tracing import is_concrete, to_numpy
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals


class IncompleteResiduals(Residuals):
    """Rows with missing entries: `residual` is the imputed residual r̂, and `scaled` is 0 where an entry is missing.

    Attributes:
        observed: (*batch of x, d) the observed entries.
        grouped: whether rows are grouped by their patterns. If each row has its own covariance, if the patterns are not
            available (traced or batched by vmap), or after `separate`, each row is factorised by itself.
        layout: the division of the batch into rows (N) and covariances (G).
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
        self._factored_batches: list[FactoredBatch] | None = None
        self._rotations: list[tuple[FactoredBatch, Tensor]] | None = None
        self._position: Tensor | None = None  # (N,) of each row in the factored batches; None for the original order
        self._marginals: Marginals | None = None
        self._variable_groups: list[Residuals] | None = None
        self._allow_grouping = grouped
        self._keeps_form: bool | None = None
        super().__init__(torch.where(observed, x, 0), mean, factor)

    def _take(self) -> None:
        """Nothing: x is a copy, which cannot be changed in place."""

    @property
    def x(self) -> Tensor:
        return torch.where(self.observed, self.given_x, torch.nan)

    @property
    def mask(self) -> Tensor:
        """(N, d) the observed entries of each row."""
        mask = self.layout.fold(self.observed)
        return mask[0] if self.layout.groups else mask

    @property
    def observed_residual(self) -> Tensor:
        """(G?, N, d) r, 0 where an entry is missing."""
        return self.layout.fold(torch.where(self.observed, self.given_x.to(self.mean.dtype) - self.mean, 0))

    # --- structures: independent groups of variables, marginals of the same structure --------------------------------

    @property
    def variable_groups(self) -> list[Residuals]:
        """The rows of each independent group of variables, with or without missing entries; [] for a single group."""
        if self._variable_groups is None:
            with self.grad_mode():
                self._variable_groups = [self._variable_group(*group) for group in self.covariance.groups(self.factor)]
        return self._variable_groups

    def _variable_group(self, at: slice, covariance: Covariance, factor: Factor) -> Residuals:
        x = self.given_x[..., at].expand((*self.batch, at.stop - at.start))
        observed = self.observed[..., at].expand(x.shape)
        if is_concrete(observed) and bool(to_numpy(observed).all()):
            return Residuals(x, self.mean[..., at], factor)
        return IncompleteResiduals(x, self.mean[..., at], covariance, factor, observed, self._allow_grouping)

    @property
    def keeps_form(self) -> bool:
        """Whether `marginals` is used: the marginals are of the same structure, and there are few enough patterns."""
        if self._keeps_form is None:
            possible = self.grouped and self.covariance.keeps_marginals
            self._keeps_form = possible and planner.keeps_form(len(distinct(to_numpy(self.mask))[0]), self.d)
        return self._keeps_form

    @property
    def marginals(self) -> Marginals:
        """One marginal structure per pattern."""
        if self._marginals is None:
            with self.grad_mode():
                self._marginals = Marginals(self.covariance, self.observed_residual, self.mask, self.layout)
        return self._marginals

    # --- monotone groups ---------------------------------------------------------------------------------------------

    @property
    def factored_batches(self) -> list[FactoredBatch]:
        """The rows as batches of monotone groups, factorised and whitened."""
        if self._factored_batches is None:
            batches, self._position = bundled(self.mask) if self.grouped else alone(self.mask)
            self.require_memory("groups of patterns", sum(len(batch.mask) for batch in batches), 3)
            with self.grad_mode():
                covariance_matrix, residual = self._folded(self.factor.dense().covariance_matrix), self.observed_residual
                self._factored_batches = [FactoredBatch(batch, covariance_matrix, residual) for batch in batches]
        return self._factored_batches

    @property
    def rotations(self) -> list[tuple[FactoredBatch, Tensor]]:
        """Each factored batch with its T (G?, C, d, d)."""
        if self._rotations is None:
            self.require_memory("groups of patterns", sum(len(factored.mask) for factored in self.factored_batches), 2)
            with self.grad_mode():
                scale_tril = self._folded(self.factor.dense().scale_tril)
                self._rotations = [(factored, factored.rotation(scale_tril)) for factored in self.factored_batches]
        return self._rotations

    @property
    def row_patterns(self) -> Tensor:
        """(N,) the pattern of each grouped row, numbered through all factored batches."""
        indices, first = [], 0
        for factored in self.factored_batches:
            indices.append(factored.monotone.pattern.flatten() + first)
            first += factored.n_patterns
        return torch.cat(indices)[self._position]

    def to_rows(self, by_batch: list[Tensor], event: int) -> Tensor:
        """One array (G?, C, R, *event) per factored batch → (*batch, *event)."""
        flat = torch.cat([t.flatten(t.ndim - event - 2, t.ndim - event - 1) for t in by_batch], -event - 1)
        in_order = flat if self._position is None else flat.index_select(flat.ndim - event - 1, self._position)
        return self.layout.unfold(in_order, event)

    def weights_of(self, factored: FactoredBatch, weights: Tensor) -> Tensor:
        """Weights (*batch) → (G?, C, R) those of the rows of a factored batch."""
        return self.layout.fold(weights, 0)[..., factored.monotone.rows]

    def require_memory(self, what: str, count: int, times: int) -> None:
        """Raise MemoryLimitError if `times` d×d matrices for each of `count` groups or patterns cannot fit."""
        shape, remedy = (*self.layout.group_shape, count, self.d, self.d), "take fewer rows at a time, or fewer variables."
        memory.require_work(f"missing entries in {what}", shape, self.mean.dtype, self.mean.device, times, 0, remedy)

    def _folded(self, matrix: Tensor) -> Tensor:
        """A matrix of the covariance: (G?, d, d) for grouped rows, (N, d, d) for separate rows."""
        return (self.layout.fold_params if self.grouped else self.layout.fold)(matrix, 2)

    # --- the interface of `Residuals` ----------------------------------------------------------------------------------

    @property
    def has_scaled(self) -> bool:
        return True

    @property
    def unbatched(self) -> bool:
        return False

    @property
    def scaled(self) -> Tensor:
        if "scaled" not in self._cache:
            with self.grad_mode():
                self._cache["scaled"] = self._scaled().expand((*self.batch, self.d))
        return self._cache["scaled"]

    def _scaled(self) -> Tensor:
        if self.variable_groups:
            return torch.cat([rows.scaled for rows in self.variable_groups], -1)
        if self.keeps_form:
            return self.marginals.scaled()
        return self.to_rows([factored.scaled for factored in self.factored_batches], 1)

    @property
    def residual(self) -> Tensor:
        """(*batch, d) r̂ = Σ a: r where observed, and the conditional expectation of r given these entries where missing."""
        if "residual" not in self._cache:
            with self.grad_mode():
                layout = RowLayout(self.batch, self.factor.batch)
                imputed = layout.unfold(layout.fold(self.scaled) @ layout.fold_params(self.factor.dense().covariance_matrix, 2))
                self._cache["residual"] = torch.where(self.observed, self.given_x.to(self.mean.dtype) - self.mean, imputed)
        return self._cache["residual"]

    @property
    def log_prob(self) -> Tensor:
        """(*batch) the marginal log-density, 0 if nothing is observed."""
        with self.grad_mode():
            if self.variable_groups:
                return torch.stack([rows.log_prob for rows in self.variable_groups]).sum(0)
            if self.keeps_form:
                return self.marginals.log_prob()
            return -0.5 * self.to_rows([factored.quadratic for factored in self.factored_batches], 0)

    def separate(self) -> IncompleteResiduals:
        """The same rows, each factorised separately."""
        with self.grad_mode():
            return IncompleteResiduals(self.given_x, self.mean, self.covariance, self.factor, self.observed, grouped=False)

    def expand(self, batch: Size) -> Residuals:
        if batch == self.batch:
            return self
        x = self.given_x.expand((*batch, self.d))
        return IncompleteResiduals(x, self.mean, self.covariance, self.factor, self.observed.expand(x.shape))

    def narrow(self, dim: int, index: slice | Tensor, workspace: Workspace | None = None) -> Residuals:
        with self.grad_mode():
            has_dim = dim >= len(self.batch) - len(self.factor.batch)
            part = IncompleteResiduals(
                narrow(self.given_x, self.batch, 1, dim, index),
                narrow(self.mean, self.batch, 1, dim, index),
                self.covariance.narrow(self.batch, dim, index) if has_dim else self.covariance,
                self.factor.narrow(self.batch, dim, index),
                narrow(self.observed, self.batch, 1, dim, index),
            )
            part._cache = {name: narrow(t, self.batch, 1, dim, index) for name, t in self._cache.items()}
        return part
