"""Influence: how far the estimates would move if a row were not there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import counted
from mvnjac.inference.at_estimate import warn_unless_at_estimate
from mvnjac.inference.estimating_functions import FEWER, PROPAGATED, EstimatingFunctions, require
from mvnjac.inference.labels import row_labels
from mvnjac.inference.named_table import NamedTable
from mvnjac.information.functions import Wrt
from mvnjac.score.jacobian import Jacobian
from mvnjac.tensors.allocation import guarded

_NAME = "influence"
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, repr=False, eq=False)
class Influence(NamedTable):
    """What each row does to the estimates. Made by `influence`.

    Attributes:
        columns: the k names; labels: (n,) those of the rows.
        changes: (n, k) about how much each estimate would change without the row.
        distances: (n,) the length of the change of all estimated parameters, squared, in the units of their covariance.
        standard_errors: (k,) from the same information.
    """

    columns: tuple[str, ...]
    labels: tuple[Any, ...]
    changes: Float[Tensor, "n k"]
    distances: Float[Tensor, "n"]
    standard_errors: Float[Tensor, "k"]

    def top(self, count: int = 10) -> Influence:
        """The most influential rows, the largest distance first."""
        rows = self.distances.argsort(descending=True)[:count]
        labels = tuple(self.labels[i] for i in rows.tolist())
        return Influence(self.columns, labels, self.changes[rows], self.distances[rows], self.standard_errors)

    def to_xarray(self) -> Any:
        """Changes and distances as an xarray.Dataset over "row" and "parameter" (needs xarray)."""
        import xarray as xr

        return xr.Dataset(
            {"change": (("row", "parameter"), self.changes.cpu().numpy()), "distance": ("row", self.distances.cpu().numpy())},
            coords={"row": list(self.labels), "parameter": list(self.columns)},
        )

    def _title(self) -> str:
        return f"influence of {counted(len(self.labels), 'row')} on {counted(len(self.columns), 'estimate')}:"

    def _labels(self) -> Sequence[Any]:
        return self.labels

    def _table(self) -> dict[str, Any]:
        relative = self.changes / self.standard_errors
        most = relative.abs().argmax(-1)
        return {
            "distance": self.distances,
            "most_changed": [self.columns[i] for i in most.tolist()],
            "standard_errors": relative.gather(-1, most.unsqueeze(-1)).squeeze(-1),
        }


@guarded(_NAME, FEWER)
def influence(
    J: Jacobian,
    *,
    wrt: Wrt = None,
    known: Wrt = None,
    labels: Iterable[Any] | None = None,
    information: str = "observed",
    weights: Float[Tensor, "n"] | None = None,
) -> Influence:
    """The change of the estimates if a row is left out, by one Newton step: −I⁻¹ sᵢ; and its length sᵢᵀ I⁻¹ sᵢ.

    That is the empirical influence function over −n; its length a generalised Cook distance (Cook 1986, *Assessment of
    local influence*; Pek & MacCallum 2011): 1 is a move of all estimates by one standard error in some direction.

    Args:
        J: the Jacobian at the estimate, of n rows.
        wrt: the columns of `changes`; the distance is that of all parameters, and the same in each parametrisation.
        known: parameters that were not estimated.
        labels: (n,) what the rows are called: dates.
        information: "observed", "expected" (of a dense parametrisation in closed form: nothing p×p) or "opg".
        weights: (n,) one a row.

    Returns:
        An `Influence`: `.top(10)`, `.changes`, `.distances`; prints as a table.

    Warns:
        NotAtEstimateWarning: as in `covariance_of_estimates`.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 9.0], [0.0, 3.0]], dtype=torch.float64)
        >>> inference.influence(mvnjac.fit(x).gaussian.jacobian(x), labels=["Mon", "Tue", "Wed", "Thu"]).top(1).labels
        ('Wed',)
    """
    require(_NAME, "information", information, ("observed", "expected", "opg"))
    estimating = EstimatingFunctions(_NAME, J, wrt, weights, known)
    warn_unless_at_estimate(estimating)
    k = len(estimating.places)
    estimating.require_memory(2 * estimating.rows * k + PROPAGATED * k * estimating.size)
    directions = estimating.unit_rows(estimating.places)
    inverse = estimating.solve(information, directions)
    changes = -estimating.products(inverse)
    variances = (inverse * directions).sum(-1)
    return Influence(
        tuple(estimating.asked),
        tuple(row_labels(_NAME, "labels", labels, estimating.rows)),
        changes,
        _distances(estimating, information),
        torch.where(variances > 0, variances, torch.nan).sqrt(),
    )


def _distances(estimating: EstimatingFunctions, information: str) -> Tensor:
    step, parts = max(1, _CHUNK_BYTES // (8 * estimating.size)), []
    for first in range(0, estimating.rows, step):
        scores = estimating.scores(slice(first, first + step))
        parts.append((scores * estimating.solve(information, scores)).sum(-1))
    return torch.cat(parts)
