"""Second derivatives for rows with missing entries.

In the coordinates of a monotone group (`missing/incomplete_residuals.py`), m̃ = T m and K̃ = T K Tᵀ are the changes of mean and
covariance. A row with the mask o and z = z_c is a complete row of its observed variables. With B = o ∘ (K̃ z + m̃),

    Fisher    m̃ → o ∘ m̃,     K̃ → ½ o oᵀ ∘ K̃
    Hessian   −B,             −½ (B zᵀ + z Bᵀ) + ½ o oᵀ ∘ K̃

Sums over rows need only Σ o oᵀ for the Fisher information, for any number of patterns, and for the Hessian at most d + 1 rows
per pattern that have the same sums of products. If the rows share one Σ of at most 96 variables, both are formed once as
matrices over the unique elements of m and K (`information/pattern_sums.py`), and products are products with these matrices. For
structures whose marginals are of the same structure, the information is a sum over patterns (`information/marginal.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Size, Tensor

from mvnjac.covariance.maps.autodiff import AutodiffMaps
from mvnjac.covariance.maps.whitened import WhitenedMaps, added
from mvnjac.covariance.parametrisation import DenseParametrisation, Values
from mvnjac.errors import ShapeError
from mvnjac.information.curvature import Curvature, DirectMatrix
from mvnjac.information.pattern_sums import PatternSums
from mvnjac.information.rotated_groups import Gradient, RotatedBatch, RowTerms, rotated_batches, summed_gradients
from mvnjac.information.structured import WeightedRows, full_weights
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.parameters.coordinates import symmetric
from mvnjac.parameters.selection import Selection
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import sum_to
from mvnjac.tensors.tracing import is_traced

#: the most variables for which products use a matrix over the unique elements: d⁴/4 numbers
_LARGEST = 96


class IncompleteCurvature(Curvature):
    """Second derivatives with respect to any dense parametrisation, or to the parameters of a structure through its definition.

    weights: of the rows, in the average information; None for equal weights.
    """

    solves = False

    def __init__(
        self,
        names: Sequence[str],
        owners: Sequence[type[DenseParametrisation]],
        rows: IncompleteResiduals,
        param_batch: Size,
        weights: Tensor | None = None,
    ) -> None:
        rows = _for_sums(rows, param_batch)
        self.names, self.rows, self.param_batch, self.weights = list(names), rows, param_batch, weights
        if rows.covariance.mean is not None and rows.mean.ndim > 1:
            raise ShapeError(
                f"µ(θ) has shape {tuple(rows.mean.shape)}: with missing entries, second derivatives need the same mean in all "
                "rows; let the function return a mean (d,)."
            )
        mean, factor = rows.mean, rows.factor.dense()
        self.mean_and_covariance = bool(owners) and set(names) <= {"mean", "covariance_matrix"}
        self.forms_matrix = list(names) != ["mean"] and _forms_matrix(rows, param_batch, weights)
        self.broadcasts = self.forms_matrix and rows.d <= _LARGEST
        self.maps: WhitenedMaps | AutodiffMaps | IdentityMaps
        if self.mean_and_covariance and self.broadcasts:
            self.maps = IdentityMaps(mean, names)
        elif owners or list(names) == ["mean"]:
            self.maps = WhitenedMaps(mean, factor, names, owners)
        else:
            self.maps = AutodiffMaps(rows.covariance, mean, factor, names)
        self.basis = None if self.mean_and_covariance or not self.forms_matrix else factor.scale_tril
        count = sum_to(full_weights(rows, weights), param_batch, 0)
        self._count = torch.where(count == 0, 1, count)  # the average over no rows is 0

    @property
    def redundant(self) -> bool:
        return self.rows.covariance.redundant_among(self.names)

    @property
    def work(self) -> int:
        d = self.rows.d
        if self.broadcasts:
            return 4 * d**2
        batches = self.rows.factored_batches
        terms = min(self.rows.batch.numel(), sum(factored.n_patterns for factored in batches) * 2 * (d + 1))
        return 4 * (d * terms + sum(factored.scale_tril.numel() for factored in batches))

    @cached_property
    def _batches(self) -> list[RotatedBatch]:
        return rotated_batches(self.rows, self.weights)

    @cached_property
    def information(self) -> Tensor:
        """(d + q, d + q) the information of the average row, over the unique elements of (m, K)."""
        return PatternSums.of(self.rows, self.weights, self.basis, expected=True).fisher.div_(self._count)

    def fisher(self, v: Values) -> dict[str, Tensor]:
        if self.broadcasts:
            return self.maps.vjp(*_image(self.information, *self.maps.jvp(v)))
        m, K = self.folded(self.rows, v)
        parts = []
        for batch in self._batches:
            m_batch, K_batch = batch.jvp(m, K)
            parts.append((batch.pair_counts.diagonal(dim1=-2, dim2=-1) * m_batch, 0.5 * batch.pair_counts * K_batch))
        g, M = summed_gradients(self.rows, self._batches, parts, self.param_batch)
        return self.maps.vjp(g / self._count[..., None], M / self._count[..., None, None])

    def fisher_matrix(self, selection: Selection) -> DirectMatrix | None:
        return self.selected(selection, partial(getattr, self, "information"))

    def selected(self, selection: Selection, matrix: DirectMatrix) -> DirectMatrix | None:
        """The selected whole parameters out of a matrix over the mean and Σ; None if there are other parameters."""
        if not self.mean_and_covariance or not self.forms_matrix:
            return None
        d, names = self.rows.d, [part.name for part in selection.parts]
        if names == ["mean", "covariance_matrix"]:
            return matrix
        columns = {"mean": range(d), "covariance_matrix": range(d, d * (d + 3) // 2)}
        return partial(_submatrix, matrix, [column for name in names for column in columns[name]])

    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> WeightedRows:
        assert isinstance(evaluation.rows, IncompleteResiduals)
        rows = _for_sums(evaluation.rows, param_batch)
        by_matrix = self.broadcasts and _forms_matrix(rows, param_batch, weights)
        return IncompleteStatistics(self, rows, evaluation, weights, param_batch, by_matrix)

    def folded(self, rows: IncompleteResiduals, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change: (G?, 1, …) for grouped rows, (N, …) for separate rows."""
        m, K = self.maps.jvp(v)
        if not rows.grouped:
            return rows.layout.fold(m, 1), rows.layout.fold(K, 2)
        return rows.layout.fold_params(m, 1).unsqueeze(-2), rows.layout.fold_params(K, 2).unsqueeze(-3)


class IncompleteStatistics(WeightedRows):
    """The rows and their weights; by_matrix: whether products use the matrix over (m, K)."""

    def __init__(
        self,
        curvature: IncompleteCurvature,
        rows: IncompleteResiduals,
        evaluation: GeneralEvaluation,
        weights: Tensor | None,
        param_batch: Size,
        by_matrix: bool,
    ) -> None:
        super().__init__(curvature.names, evaluation, weights, param_batch)
        self._curvature, self._rows, self._by_matrix = curvature, rows, by_matrix

    def hessian(self, v: Values) -> dict[str, Tensor]:
        maps = self._curvature.maps
        if isinstance(maps, WhitenedMaps):
            maps.require_one_parametrisation()
        m, K = maps.jvp(v)
        g, M = _image(self.matrix, m, K) if self._by_matrix else self._product(v)
        return added(maps.vjp(g, M), maps.second_order_vjp(v, m, K, *self.moment_score))

    def _product(self, v: Values) -> Gradient:
        """The Hessian with respect to m and K times the change v, without the second derivatives of the maps."""
        m, K = self._curvature.folded(self._rows, v)
        parts = []
        for batch, terms in zip(self._batches, self._row_terms, strict=True):
            m_batch, K_batch = batch.jvp(m, K)
            B = terms.sign * torch.where(terms.mask, terms.z @ K_batch + terms.root * m_batch.unsqueeze(-2), 0)
            cross = B.mT @ terms.z
            parts.append((-(terms.root * B).sum(-2), 0.5 * (batch.pair_counts * K_batch - cross - cross.mT)))
        return summed_gradients(self._rows, self._batches, parts, self.param_batch)

    def hessian_matrix(self, selection: Selection) -> DirectMatrix | None:
        return self._curvature.selected(selection, partial(getattr, self, "matrix"))

    @cached_property
    def sums(self) -> PatternSums:
        """The sums over patterns from which the matrix is computed."""
        return PatternSums.of(self._rows, self.weights, self._curvature.basis, observed=True)

    @cached_property
    def matrix(self) -> Tensor:
        """(d + q, d + q) the Hessian with respect to the unique elements of (m, K)."""
        return self.sums.hessian

    @cached_property
    def moment_score(self) -> Gradient:
        """(*param_batch, d) and (*param_batch, d, d) the total score with respect to m and K."""
        if self._by_matrix:
            return self.sums.score
        parts = []
        for batch, terms in zip(self._batches, self._row_terms, strict=True):
            z, counts = terms.sign * terms.z, batch.pair_counts.diagonal(dim1=-2, dim2=-1)
            parts.append(((terms.root * z).sum(-2), 0.5 * (z.mT @ terms.z - torch.diag_embed(counts))))
        return summed_gradients(self._rows, self._batches, parts, self.param_batch)

    @cached_property
    def _batches(self) -> list[RotatedBatch]:
        return rotated_batches(self._rows, self.weights)

    @cached_property
    def _row_terms(self) -> list[RowTerms]:
        return [RowTerms.of(batch.factored, self._rows.weights_of(batch.factored, self.weights)) for batch in self._batches]


class IdentityMaps:
    """The mean and Σ themselves as coordinates (m, K), with the interface of `WhitenedMaps`."""

    def __init__(self, mean: Tensor, names: Sequence[str]) -> None:
        self.mean, self.names = mean, list(names)

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        d = self.mean.shape[-1]
        return v.get("mean", self.mean.new_zeros(d)), v.get("covariance_matrix", self.mean.new_zeros(d, d))

    def vjp(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        return {name: {"mean": g, "covariance_matrix": M}[name] for name in self.names}

    def second_order_vjp(self, v: Values, m: Tensor, K: Tensor, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        return {}


def _image(matrix: Tensor, m: Tensor, K: Tensor) -> Gradient:
    """(..., d) and (..., d, d): the full gradients from a matrix over the unique elements of (m, K), times a change."""
    d = m.shape[-1]
    kind = symmetric(d)
    k = kind.pack(K)
    batch = torch.broadcast_shapes(m.shape[:-1], k.shape[:-1])
    image = torch.cat([m.expand(*batch, d), k.expand(*batch, k.shape[-1])], -1) @ matrix
    return image[..., :d], kind.unpack_gradient(image[..., d:])


def _submatrix(matrix: DirectMatrix, columns: list[int]) -> Tensor:
    return matrix()[columns][:, columns]


def _forms_matrix(rows: IncompleteResiduals, param_batch: Size, weights: Tensor | None) -> bool:
    """Whether second derivatives are formed as one matrix: for one mean and one Σ, and unless the computation is traced."""
    traced = rows.is_traced or is_traced(full_weights(rows, weights), rows.mean, *rows.factor.tensors())
    return not param_batch and rows.grouped and not rows.layout.groups and rows.mean.ndim == 1 and not traced


def _for_sums(rows: IncompleteResiduals, param_batch: Size) -> IncompleteResiduals:
    """Grouped rows if sums have the batch of the covariance, else separate rows."""
    return rows if param_batch == rows.layout.param_batch else rows.separate()
