"""Maximum likelihood: the mean and the covariance of any structure, from rows of observations."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mvnjac.covariance import checks
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.isotropic import Isotropic
from mvnjac.errors import ArgumentError, NotIdentifiedError, ShapeError
from mvnjac.inference.maximum import Progress, fit_sample
from mvnjac.inference.result import Fit
from mvnjac.inference.structure import choose
from mvnjac.model import Model
from mvnjac.names import Names, NamesArgument
from mvnjac.sample import Sample


def fit(
    x: Float[Tensor, "n d"],
    structure: str | type[Covariance] | Covariance = "dense",
    *,
    missing: str | None = None,
    weights: Float[Tensor, "n"] | None = None,
    names: NamesArgument | None = None,
    max_iterations: int = 1000,
    progress: Progress | None = None,
) -> Fit:
    """The mean and the covariance under which the rows are most likely.

    In closed form where there is one: the sample mean, and of the dense family S = Σ w (x − x̄)(x − x̄)ᵀ / Σ w (with divisor n,
    not n − 1), of `Diagonal` its diagonal, of `Isotropic` the average of that. Otherwise by L-BFGS in the metric of the Fisher
    information, from a start that the structure knows, until every total score is below 1e-8 of the square root of its
    information. Of complete rows only their mean and scatter matter: a million of them cost no more than 2d.

    Args:
        x: (n, d), one observation a row, float32 or float64. The arithmetic is float64, and so is the estimate: rounded to float32
            it would be no maximum.
        structure: "dense", "diagonal", "isotropic", "low-rank:5" (5 factors), any of the dense family ("cholesky",
            "scale-correlation", …: the same Σ by other parameters); or a class; or an instance, whose parameters are the start
            (`Parametric`, too).
        weights: (n,) not negative; a weight of 2 is a row that occurred twice.
        names: the variables' names, for columns and messages.
        max_iterations: of the search.
        progress: called with (phase, iteration, log-likelihood).

    Returns:
        A `Fit`. `converged` says whether its estimate is a maximum; of a factor model there may be several, and this is one.

    Raises:
        NotPositiveDefiniteError: no maximum: too few rows, constant columns, linear combinations, and variances of `LowRank` that
            go to 0 (a Heywood case); the variables are named.
        NotIdentifiedError: no single maximum: more parameters than the data tell apart.
        ArgumentError, UnknownNameError: a structure that does not exist, or lacks its option.
        ShapeError, DtypeError, NotFiniteError: x is no table of numbers.

    Source: Lawley & Maxwell 1971, *Factor Analysis as a Statistical Method*, for `LowRank`: WᵀD⁻¹W is diagonal and descending, and
    every column of W has a positive sum.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]])
        >>> estimate = mvnjac.fit(x, "diagonal")
        >>> estimate.mean, estimate.covariance.parameters["cov_diag"]
        (tensor([1.5000, 3.0000], dtype=torch.float64), tensor([1.2500, 3.5000], dtype=torch.float64))
    """
    choice = choose(structure)
    rows, weights, namer = _arguments(x, weights, names, missing)
    if choice.instance is not None and choice.instance.mean is not None:
        sample: Sample | None = Sample.as_it_is(rows, weights, namer)
    else:
        sample = Sample.of(rows, weights, namer)
    if sample is None:
        raise NotIdentifiedError("fit: x has no entry that is not missing.")
    return fit_sample(sample, choice, names, max_iterations, progress)


def _arguments(
    x: Tensor, weights: Tensor | None, names: NamesArgument | None, missing: str | None
) -> tuple[Tensor, Tensor | None, Names]:
    """The rows of positive weight that have an entry, in float64; their weights; and how variables are called."""
    checks.floating("fit", "x", x)
    if x.ndim != 2 or not len(x):
        raise ShapeError(f"fit: x has shape {tuple(x.shape)}; pass a table (n, d) of n ≥ 1 observations.")
    x = x.detach()
    model = Model("fit", x.new_zeros(x.shape[1]), Isotropic(x.new_ones(())), names, None, True, missing=missing)
    model.validate(x)
    x = x.double()
    kept = ~x.isnan().all(-1)
    if weights is not None:
        weights = _valid_weights(weights, x)
        kept &= weights > 0
        weights = weights[kept]
    return x[kept], weights, model.naming


def _valid_weights(weights: Tensor, x: Tensor) -> Tensor:
    checks.floating("fit", "weights", weights)
    if weights.shape != x.shape[:1]:
        raise ShapeError(f"fit: weights has shape {tuple(weights.shape)}; expected one number a row: ({len(x)},).")
    weights = weights.detach().to(x)
    bad = ~(weights >= 0) | weights.isinf()
    if bool(bad.any()) or not bool((weights > 0).any()):
        row = int(bad.nonzero()[0]) if bool(bad.any()) else 0
        raise ArgumentError(
            f"fit: the weight of row {row} is {weights[row].item()!r}; weights are finite and not negative, not all 0."
        )
    return weights
