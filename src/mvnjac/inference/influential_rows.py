"""The influence of rows: the change of the estimates if a row is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.errors import ArgumentError, counted
from mvnjac.inference.estimating_functions import (
    INFORMATIONS,
    MEMORY_ADVICE,
    RESULT_ARRAYS,
    EstimatingFunctions,
    chunks,
    require,
)
from mvnjac.inference.first_order_condition import warn_unless_at_estimate
from mvnjac.inference.process_plots import plot_influence
from mvnjac.inference.result_table import ResultTable
from mvnjac.inference.row_labels import row_labels
from mvnjac.information.functions import Wrt
from mvnjac.score.jacobian import Jacobian
from mvnjac.tensors.allocation import guarded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME = "influence"


@dataclass(frozen=True, repr=False, eq=False)
class Influence(ResultTable):
    """The influence of each row on the estimates; returned by `influence`.

    Attributes:
        columns: the k names.
        labels: (n,) the labels of the rows.
        changes: (n, k) the approximate change of each estimate if the row is left out.
        distances: (n,) the squared norm of the change of all estimated parameters, in the metric of their inverse covariance.
        standard_errors: (k,) from the same information.
    """

    columns: tuple[str, ...]
    labels: tuple[Any, ...]
    changes: Float[Tensor, "n k"]
    distances: Float[Tensor, "n"]
    standard_errors: Float[Tensor, "k"]

    def top(self, count: int = 10) -> Influence:
        """The most influential rows, in descending order of distance."""
        rows = self.distances.argsort(descending=True)[:count]
        labels = tuple(self.labels[i] for i in rows.tolist())
        return Influence(self.columns, labels, self.changes[rows], self.distances[rows], self.standard_errors)

    def plot(self, ax: Axes | None = None, *, marked: int = 7) -> Axes:
        """Draw the distance of each row on a logarithmic scale; the rows with the largest distances have labels.

        At a distance of 1 (dashed), the estimates change by one standard error in some direction of the parameter space.

        Args:
            ax: the matplotlib axes to draw on; None: those of a new pyplot figure.
            marked: the number of rows with a label, as far as there is room.

        Returns:
            The axes.

        Raises:
            ArgumentError: `marked` is negative.

        Example:
            >>> import matplotlib
            >>> matplotlib.use("agg")
            >>> import torch, mvnjac
            >>> from mvnjac import inference
            >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            >>> inference.influence(mvnjac.fit(x).gaussian.jacobian(x)).plot().get_yscale()
            'log'
        """
        if marked < 0:
            raise ArgumentError(f"plot: marked is {marked}; expected the number of rows that have a label.")
        return plot_influence(self.distances, self.labels, marked, ax)

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
        most = relative.abs().nan_to_num(-1).argmax(-1)  # parameters at a bound have no standard errors
        return {
            "distance": self.distances,
            "most_changed": [self.columns[i] for i in most.tolist()],
            "standard_errors": relative.gather(-1, most.unsqueeze(-1)).squeeze(-1),
        }


@guarded(_NAME, MEMORY_ADVICE)
def influence(
    J: Jacobian,
    *,
    wrt: Wrt = None,
    known: Wrt = None,
    labels: Iterable[Any] | None = None,
    information: str = "observed",
    weights: Float[Tensor, "n"] | None = None,
) -> Influence:
    """The influence of each row: the change of the estimates, by one Newton step, if the row is left out.

    The change is −I⁻¹ sᵢ, and its size sᵢᵀ I⁻¹ sᵢ. The change is −1/n times the empirical influence function. The size is a
    generalised Cook distance (Cook 1986, *Assessment of local influence*; Pek & MacCallum 2011): 1 is a change by one standard
    error in some direction of the parameter space.

    Args:
        J: the Jacobian at the estimate, of n rows.
        wrt: the columns of `changes`; distances are those of all parameters, and the same in each parametrisation.
        known: parameters that were not estimated.
        labels: (n,) labels of the rows, such as dates; None: `J.index`.
        information: "observed", "expected" (closed form for dense parametrisations, without a p×p matrix) or "opg".
        weights: (n,) weights of the rows.

    Returns:
        An `Influence` with `.top(10)`, `.changes` and `.distances`; it prints as a table.

    Raises:
        SingularError: the information is singular.
        ArgumentError, UnknownNameError, ShapeError: arguments are invalid.

    Warns:
        NotAtEstimateWarning: as in `covariance_of_estimates`.

    Example:
        >>> import torch, mvnjac
        >>> from mvnjac import inference
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 9.0], [0.0, 3.0]], dtype=torch.float64)
        >>> inference.influence(mvnjac.fit(x).gaussian.jacobian(x), labels=["Mon", "Tue", "Wed", "Thu"]).top(1).labels
        ('Wed',)
    """
    require(_NAME, "information", information, INFORMATIONS)
    estfun = EstimatingFunctions(_NAME, J, wrt, weights, known)
    warn_unless_at_estimate(estfun)
    k = len(estfun.positions)
    estfun.require_memory(2 * estfun.rows * k + RESULT_ARRAYS * k * estfun.size)
    directions = estfun.unit_rows(estfun.positions)
    inverse = estfun.solve(information, directions)
    changes = -estfun.products(inverse)
    variances = (inverse * directions).sum(-1)
    scores = (estfun.scores(rows) for rows in chunks(estfun.rows, estfun.size))
    distances = torch.cat([(part * estfun.solve(information, part)).sum(-1) for part in scores])
    return Influence(
        tuple(estfun.requested),
        tuple(row_labels(_NAME, "labels", J.index if labels is None else labels, estfun.rows)),
        changes,
        distances,
        torch.where(variances > 0, variances, torch.nan).sqrt(),
    )
