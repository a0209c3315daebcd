"""Second order for rows with missing entries.

In the coordinates of a chain (`missing/incomplete_residuals.py`), m̃ = T m and K̃ = T K Tᵀ are the change of mean and covariance; a
row with the mask o and z = z_c is a complete row of what it observes, so that with B = o ∘ (K̃ z + m̃)

    Fisher    m̃ → o ∘ m̃,     K̃ → ½ o oᵀ ∘ K̃
    Hessian   −B,             −½ (B zᵀ + z Bᵀ) + ½ o oᵀ ∘ K̃

and sums over rows need only Σ o oᵀ for the first, however many patterns there are; for the second, no more than d + 1 rows a pattern
that have the same sums of products. Where the rows share one Σ of few enough variables, both are formed once, as matrices over the
unique elements of m and K (`information/pattern_sums.py`), and a product is a product with them. Structures that keep their form
add up a structure a pattern instead (`information/marginal.py`).
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
from mvnjac.information.curvature import Curvature, DirectMatrix, RowStatistics
from mvnjac.information.pattern_sums import PatternSums
from mvnjac.information.rotated_groups import RotatedGroup, RowTerms, given_weights, rotated_groups, summed_gradients
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.parameters.coordinates import symmetric
from mvnjac.parameters.selection import Selection
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import sum_to
from mvnjac.tensors.tracing import is_traced

#: the most variables for which products are products with a matrix over the unique elements: d⁴/4 numbers
_LARGEST = 96


class IncompleteCurvature(Curvature):
    """By any dense parametrisation, or by a structure's own parameters through its definition.

    weights: those of the rows in their average, the information; None: all count the same.
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
        self.names, self.rows, self.param_batch, self.weights = list(names), _suited(rows, param_batch), param_batch, weights
        rows = self.rows
        if rows.covariance.mean is not None and rows.mean.ndim > 1:
            raise ShapeError(
                f"µ(θ) has shape {tuple(rows.mean.shape)}: with missing entries there is no second order where each row has a mean of "
                "its own; let the function return a mean (d,)."
            )
        mean, factor = rows.mean, rows.factor.dense()
        self.natural_coordinates = bool(owners) and set(names) <= {"mean", "covariance_matrix"}
        self.formable = list(names) != ["mean"] and _formable(rows, param_batch, weights)
        self.broadcasts = self.formable and rows.d <= _LARGEST
        self.maps: WhitenedMaps | AutodiffMaps | Moments = (
            Moments(mean, names)
            if self.natural_coordinates and self.broadcasts
            else WhitenedMaps(mean, factor, names, owners)
            if owners or list(names) == ["mean"]
            else AutodiffMaps(rows.covariance, mean, factor, names)
        )
        self.basis = None if self.natural_coordinates or not self.formable else factor.scale_tril
        self._count = sum_to(given_weights(rows, weights), param_batch, 0)

    @property
    def redundant(self) -> bool:
        return self.rows.covariance.redundant_among(self.names)

    @property
    def work(self) -> int:
        d = self.rows.d
        if self.broadcasts:
            return 4 * d**2
        rotations = sum(chains.scale_tril.numel() for chains in self.rows.chains)
        return min(self.rows.batch.numel(), _patterns(self.rows) * 2 * (d + 1)) * 4 * d + 4 * rotations

    @cached_property
    def _groups(self) -> list[RotatedGroup]:
        return rotated_groups(self.rows, self.weights)

    @cached_property
    def information(self) -> Tensor:
        """(d + q, d + q) the information of the average row, by the unique elements of (m, K)."""
        fisher = PatternSums.of(self.rows, self.weights, self.basis, expected=True).fisher
        return fisher.div_(torch.where(self._count == 0, 1, self._count))  # of no rows there is nothing to average

    def fisher(self, v: Values) -> dict[str, Tensor]:
        if self.broadcasts:
            return self.maps.vjp(*_image(self.information, *self.maps.jvp(v)))
        count = torch.where(self._count == 0, 1, self._count).unsqueeze(-1)
        m, K = self.folded(self.rows, v)
        parts = []
        for part in self._groups:
            change, matrix_change = part.jvp(m, K)
            parts.append((part.pairs.diagonal(dim1=-2, dim2=-1) * change, 0.5 * part.pairs * matrix_change))
        g, M = summed_gradients(self.rows, self._groups, parts, self.param_batch)
        return self.maps.vjp(g / count, M / count.unsqueeze(-1))

    def fisher_matrix(self, selection: Selection) -> DirectMatrix | None:
        return self._columns(selection, partial(getattr, self, "information"))

    def _columns(self, selection: Selection, matrix: DirectMatrix) -> DirectMatrix | None:
        """Whole parameters out of a matrix over the unique elements of the mean and Σ, if these are the parameters."""
        if not self.natural_coordinates or not self.formable:
            return None
        d, names = self.rows.d, [part.name for part in selection.parts]
        if names == ["mean", "covariance_matrix"]:
            return matrix
        columns = {"mean": range(d), "covariance_matrix": range(d, d * (d + 3) // 2)}
        return partial(_submatrix, matrix, [column for name in names for column in columns[name]])

    def statistics(self, evaluation: GeneralEvaluation, weights: Tensor | None, param_batch: Size) -> RowStatistics:
        rows = evaluation.rows
        assert isinstance(rows, IncompleteResiduals)
        rows = _suited(rows, param_batch)
        packed = self.broadcasts and _formable(rows, param_batch, weights)
        return IncompleteStatistics(self, rows, evaluation, weights, param_batch, packed)

    def folded(self, rows: IncompleteResiduals, v: Values) -> tuple[Tensor, Tensor]:
        """(m, K) of a change, for each covariance (G?, 1, …), or for each row by itself."""
        m, K = self.maps.jvp(v)
        if not rows.grouped:
            return rows.layout.fold(m, 1), rows.layout.fold(K, 2)
        return rows.layout.fold_params(m, 1).unsqueeze(-2), rows.layout.fold_params(K, 2).unsqueeze(-3)


class IncompleteStatistics(RowStatistics):
    """The rows with their weights; for each entry of `param_batch`. packed: whether products are taken with a matrix over (m, K)."""

    def __init__(
        self,
        curvature: IncompleteCurvature,
        rows: IncompleteResiduals,
        evaluation: GeneralEvaluation,
        weights: Tensor | None,
        param_batch: Size,
        packed: bool,
    ) -> None:
        self._curvature, self._rows, self._evaluation = curvature, rows, evaluation
        self._param_batch, self._weights, self._packed = param_batch, given_weights(rows, weights), packed

    @property
    def count(self) -> Tensor:
        return sum_to(self._weights, self._param_batch, 0)

    def score(self) -> dict[str, Tensor]:
        names = self._curvature.names
        return dict(zip(names, self._evaluation.totals(names, self._weights, [self._param_batch] * len(names)), strict=True))

    def hessian(self, v: Values) -> dict[str, Tensor]:
        maps = self._curvature.maps
        if isinstance(maps, WhitenedMaps):
            maps.require_one_parametrisation()
        m, K = maps.jvp(v)
        g, M = _image(self.matrix, m, K) if self._packed else self._product(v)
        return added(maps.vjp(g, M), maps.second_order_vjp(v, m, K, *self.moment_score))

    def _product(self, v: Values) -> tuple[Tensor, Tensor]:
        """The gradients with respect to m and K of the directional derivative along v, without the second derivative of the maps."""
        m, K = self._curvature.folded(self._rows, v)
        parts = []
        for part, terms in zip(self._groups, self._row_terms, strict=True):
            change, matrix_change = part.jvp(m, K)
            moved = terms.z @ matrix_change + terms.root * change.unsqueeze(-2)
            B = terms.sign * torch.where(terms.mask, moved, 0)
            cross = B.mT @ terms.z
            parts.append((-(terms.root * B).sum(-2), 0.5 * (part.pairs * matrix_change - cross - cross.mT)))
        return summed_gradients(self._rows, self._groups, parts, self._param_batch)

    def hessian_matrix(self, selection: Selection) -> DirectMatrix | None:
        return self._curvature._columns(selection, partial(getattr, self, "matrix"))

    @cached_property
    def sums(self) -> PatternSums:
        """The sums over patterns that the matrix follows from."""
        return PatternSums.of(self._rows, self._weights, self._curvature.basis, observed=True)

    @cached_property
    def matrix(self) -> Tensor:
        """(d + q, d + q) the Hessian with respect to the unique elements of (m, K)."""
        return self.sums.hessian

    @cached_property
    def moment_score(self) -> tuple[Tensor, Tensor]:
        """(*param_batch, d) and (*param_batch, d, d) the total score with respect to m and K."""
        if self._packed:
            return self.sums.score
        scores = [self._score(part, terms) for part, terms in zip(self._groups, self._row_terms, strict=True)]
        return summed_gradients(self._rows, self._groups, scores, self._param_batch)

    @staticmethod
    def _score(part: RotatedGroup, terms: RowTerms) -> tuple[Tensor, Tensor]:
        z = terms.sign * terms.z
        return (terms.root * z).sum(-2), 0.5 * (z.mT @ terms.z - torch.diag_embed(part.pairs.diagonal(dim1=-2, dim2=-1)))

    @cached_property
    def _groups(self) -> list[RotatedGroup]:
        return rotated_groups(self._rows, self._weights)

    @cached_property
    def _row_terms(self) -> list[RowTerms]:
        return [RowTerms.of(part.chains, self._rows.of_rows(part.chains, self._weights)) for part in self._groups]


class Moments:
    """The mean and Σ themselves as coordinates, with the interface of `whitened.WhitenedMaps`."""

    def __init__(self, mean: Tensor, names: Sequence[str]) -> None:
        self.mean, self.names = mean, list(names)

    def jvp(self, v: Values) -> tuple[Tensor, Tensor]:
        """(dµ, dΣ)."""
        d = self.mean.shape[-1]
        return v.get("mean", self.mean.new_zeros(d)), v.get("covariance_matrix", self.mean.new_zeros(d, d))

    def vjp(self, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """Those that were asked for."""
        return {name: {"mean": g, "covariance_matrix": M}[name] for name in self.names}

    def second_order_vjp(self, v: Values, m: Tensor, K: Tensor, g: Tensor, M: Tensor) -> dict[str, Tensor]:
        """Nothing: they are linear."""
        return {}


def _image(matrix: Tensor, m: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """(..., d) and (..., d, d): the full gradients that a matrix over the unique elements of (m, K) gives for a change."""
    d = m.shape[-1]
    kind = symmetric(d)
    k = kind.pack(K)
    batch = torch.broadcast_shapes(m.shape[:-1], k.shape[:-1])
    image = torch.cat([m.expand(*batch, d), k.expand(*batch, k.shape[-1])], -1) @ matrix
    return image[..., :d], kind.unpack_gradient(image[..., d:])


def _submatrix(matrix: DirectMatrix, columns: list[int]) -> Tensor:
    return matrix()[columns][:, columns]


def _formable(rows: IncompleteResiduals, param_batch: Size, weights: Tensor | None) -> bool:
    """Whether second order over these rows is a matrix of numbers: one mean, one Σ, and nobody differentiates it."""
    watched = rows.is_traced or is_traced(given_weights(rows, weights), rows.mean, *rows.factor.tensors())
    return not param_batch and rows.grouped and not rows.layout.groups and rows.mean.ndim == 1 and not watched


def _patterns(rows: IncompleteResiduals) -> int:
    return sum(chains.bundle.patterns.shape[-1] for chains in rows.chains)


def _suited(rows: IncompleteResiduals, param_batch: Size) -> IncompleteResiduals:
    """The rows together where sums of them are those of each covariance; else, for sums that keep more, each row by itself."""
    return rows if param_batch == rows.layout.param_batch else rows.separate()
