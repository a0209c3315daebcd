"""Sums over batches of rows, which are merged (`statistics/pairwise.py`), and the results that follow from them.

For complete rows and dense parametrisations the sums are n, s and S of the whitened residuals (`whitening/sums.py`), which
determine the log-likelihood, the total scores and both informations. Otherwise log-likelihoods and total scores are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Size, Tensor

from mvnjac.covariance import dense_parameters
from mvnjac.covariance.maps.whitened import WhitenedMaps
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.gaussian import Gaussian
from mvnjac.inference.standard_errors import StandardErrors
from mvnjac.parameters.selection import Selection
from mvnjac.score.column_norms import sums_of_squares
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.score.streaming import WhitenedRows
from mvnjac.statistics.pairwise import NamedSums, SumTuple, number
from mvnjac.tensors import memory
from mvnjac.whitening.factor import DenseFactor
from mvnjac.whitening.sums import WhitenedMoments

#: p×p matrices in memory at once: of a batch, of a unit of work, and of units that wait to be merged
_GRAMS = 6


class ScoreSums:
    """Sums over validated rows, for one density.

    Args:
        wrt: the columns.
        squares: add their sums of squares.
        gram: add JᵀJ.
        errors: add the sums for these standard errors.
    """

    def __init__(
        self,
        gaussian: Gaussian,
        wrt: Sequence[str] | None,
        squares: bool = False,
        gram: bool = False,
        errors: Sequence[str] = (),
    ) -> None:
        self._gaussian, self._model = gaussian, gaussian.model
        self._wrt, self._squares, self._gram = wrt, squares, gram
        self._model.validate_parameters()
        self._empty = gaussian.jacobian(self._model.mean.new_zeros(0, self._model.d))
        if gram:
            p = len(self.columns)
            advice = "choose fewer columns by --wrt or fewer variables."
            memory.require_work("gram", (p, p), torch.float64, self._model.mean.device, _GRAMS, 0, advice)
        self._errors = StandardErrors(gaussian, self.columns, errors) if errors else None

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._empty.columns(self._wrt)

    @cached_property
    def descriptions(self) -> list[str]:
        """The columns in words, such as "variance of CHF"."""
        return self._model.arguments.descriptions(self._selection)

    @cached_property
    def estimates(self) -> list[float]:
        """The values of the parameters."""
        return self._empty.values(self._wrt).tolist()

    @cached_property
    def _selection(self) -> Selection:
        return self._empty.selection(self._wrt, "unique")

    @cached_property
    def _whitened(self) -> bool:
        names = {part.name for part in self._selection.parts}
        dense = isinstance(self._model.covariance, DenseParametrisation) and not self._model.arguments.missing
        return dense and names <= {"mean", *dense_parameters()}

    def derivatives(self, x: Tensor) -> GeneralEvaluation:
        """The derivatives at validated rows x (n, d)."""
        return GeneralEvaluation.at_validated(self._model, x)

    def of(self, derivatives: GeneralEvaluation) -> SumTuple:
        """The sums over some rows."""
        parts, squares = self._selection.parts, None
        main: WhitenedMoments | NamedSums
        if self._fused_rows is not None and len(derivatives.rows.x):
            with_squares = self._squares and WhitenedRows.knows(parts)
            main, squares = self._fused_rows.sums(derivatives.rows.x, parts if with_squares else ())
        else:
            main = self._main_sums(derivatives)
        further = dict[str, Tensor]()
        if self._squares:
            further["squares"] = sums_of_squares(derivatives, parts) if squares is None else squares
        if self._gram:
            further["gram"] = derivatives.gram(self._selection)
        return SumTuple([main, NamedSums(further), self._error_sums(derivatives)])

    @cached_property
    def _fused_rows(self) -> WhitenedRows | None:
        """The fused computation of whitened moments and squares, where it is applicable."""
        mean, factor = self._model.prepared()
        if not self._whitened or not isinstance(factor, DenseFactor) or mean.dtype != torch.float64:
            return None
        return WhitenedRows(mean, factor) if factor.whitens_forward else None

    def _main_sums(self, derivatives: GeneralEvaluation) -> WhitenedMoments | NamedSums:
        if self._whitened:
            return WhitenedMoments.of([(derivatives.rows, None)], self._model.batch)
        likelihood = self._model.log_prob(derivatives.rows).sum()
        names = [part.name for part in self._selection.parts]
        totals = derivatives.totals(names, None, [Size()] * len(names))
        numbers = {"rows": number(derivatives.rows.batch[0]), "likelihood": likelihood}
        return NamedSums(numbers | {str(i): total for i, total in enumerate(totals)})

    def _error_sums(self, derivatives: GeneralEvaluation) -> SumTuple:
        if self._errors is None:
            return SumTuple([])
        return self._errors.sums(derivatives, informations=not self._whitened)  # the whitened moments determine these

    def _packed(self, totals: Sequence[Tensor]) -> Tensor:
        """(p,) the partial derivatives with respect to the columns, from the full gradient of each part."""
        packed = []
        for part, total in zip(self._selection.parts, totals, strict=True):
            elements = part.coordinates.pack_gradient(total)
            packed.append(elements if part.index is None else elements[..., part.index_tensor(elements.device)])
        return torch.cat(packed)

    # --- results -----------------------------------------------------------------------------------------------------

    def rows(self, sums: SumTuple | None) -> int:
        """The number of rows."""
        if sums is None:
            return 0
        main = sums.parts[0]
        return int(main.count if isinstance(main, WhitenedMoments) else main["rows"])

    def log_likelihood(self, sums: SumTuple | None) -> float:
        """Σ log p."""
        if sums is None:
            return 0.0
        main = sums.parts[0]
        if not isinstance(main, WhitenedMoments):
            return float(main["likelihood"])
        constant = self._model.d * math.log(2 * math.pi) + float(self._model.prepared()[1].log_det)
        return -0.5 * (float(main.second.diagonal().sum()) + float(main.count) * constant)

    def scores(self, sums: SumTuple | None) -> Tensor:
        """(p,) the total scores."""
        if sums is None:
            return torch.zeros(len(self.columns), dtype=torch.float64, device="cpu")
        return self._packed(self.gradients(sums))

    def gradients(self, sums: SumTuple) -> list[Tensor]:
        """The full gradient of Σ log p with respect to the parameter of each part of the columns."""
        main, names = sums.parts[0], [part.name for part in self._selection.parts]
        if not isinstance(main, WhitenedMoments):
            return [main[str(i)] for i in range(len(names))]
        owners = [dense_parameters()[name] for name in names if name != "mean"]
        mean, factor = self._model.prepared()
        maps = WhitenedMaps(mean, factor.dense(), names, list(dict.fromkeys(owners)))
        gradients = maps.vjp(main.first, main.matrix_score)
        return [gradients[name] for name in names]

    def deviations(self, sums: SumTuple | None) -> Tensor:
        """(p,) √(JᵀJ)ₖₖ."""
        if sums is None:
            return torch.zeros(len(self.columns), dtype=torch.float64, device="cpu")
        return sums.parts[1]["squares"].sqrt()

    def gram(self, sums: SumTuple | None) -> Tensor:
        """(p, p) JᵀJ."""
        p = len(self.columns)
        return torch.zeros(p, p, dtype=torch.float64, device="cpu") if sums is None else sums.parts[1]["gram"]

    def standard_errors(self, sums: SumTuple | None) -> dict[str, list[float]]:
        """For each requested kind, one standard error per column."""
        if self._errors is None:
            return {}
        informations, meats = (None, None) if sums is None else sums.parts[2].parts
        if self._whitened and sums is not None:
            informations = SumTuple([sums.parts[0]])
        return {kind: self._errors.errors(kind, informations, meats) for kind in self._errors.kinds}
