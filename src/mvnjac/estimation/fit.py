"""Maximum likelihood: the mean and the covariance of any structure, from rows of observations."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import LOWER
from mvnjac.covariance.structured.isotropic import Isotropic
from mvnjac.covariance.structured.kronecker import Kronecker
from mvnjac.errors import ArgumentError, NotIdentifiedError, ShapeError
from mvnjac.estimation.maximum import Progress, fit_sample
from mvnjac.estimation.result import Fit
from mvnjac.estimation.structure import Choice, choose
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.parameters import checks
from mvnjac.parameters.names import NamesArgument
from mvnjac.score.row_arguments import require_counts
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.allocation import guarded


@guarded("fit", "take fewer rows, fewer variables, or a structure of fewer parameters.")
def fit(
    x: Float[Tensor, "n d"],
    structure: str | type[Covariance] | Covariance = "dense",
    *,
    missing: str | None = None,
    weights: Float[Tensor, "n"] | None = None,
    names: NamesArgument | None = None,
    max_iterations: int = 1000,
    progress: Progress | None = None,
    lower: float = LOWER,
) -> Fit:
    """The mean and the covariance under which the rows are most likely.

    In closed form where there is one: the sample mean, and of the dense family S = Σ w (x − x̄)(x − x̄)ᵀ / Σ w (with divisor n,
    not n − 1); of `Diagonal`, `Isotropic`, `CompoundSymmetric` and `BandedPrecision` what follows from S. Otherwise by L-BFGS in
    the metric of the Fisher information, from a start that the structure knows (of a dense Σ and missing entries from some steps of
    EM), until every total score is below 1e-8 of the square root of its information. Factor models are searched from several starts,
    over the unique variances alone where nothing is missing, with a lower bound for these. Of rows that observe the same only their
    mean and scatter matter: a million of them cost no more than 2d.

    Args:
        x: (n, d), one observation a row, float32 or float64; of `Kronecker` also (n, m, q). The arithmetic is float64, and so is the
            estimate: rounded to float32 it would be no maximum.
        structure: "dense", "diagonal", "isotropic", "low-rank:5" (5 factors), "kronecker:3x4" (rows × columns), "toeplitz",
            "compound-symmetric", "banded-precision:2" (bandwidth), "ar:2" (order), any of the dense family ("cholesky",
            "scale-correlation", …: the same Σ by other parameters); or a class; or an instance, whose parameters are the start (of
            `Parametric` and `BlockDiagonal` the only way).
        missing: "marginalise": NaN is a missing entry, and each row is the marginal of what it observes.
        weights: (n,) not negative; a weight of 2 is a row that occurred twice.
        names: the variables' names, for columns and messages.
        max_iterations: of the search, from each start.
        progress: called with (phase, iteration, log-likelihood); of a search from several starts the largest so far.
        lower: the least unique variance (`cov_diag` of `LowRank`), as a share of the variable's sample variance, between 0 and 1;
            R's factanal has the same bound. Other structures have none.

    Returns:
        A `Fit`. `converged` says whether its estimate is a maximum; of a structure that is searched there may be several, and this
        is one. `boundary` names the unique variances that stand at their bound (Heywood cases). Where different parameters mean the
        same Σ, a convention chooses: of `LowRank` WᵀD⁻¹W is diagonal and descending, and the correlations with every factor have a
        positive sum; of `Kronecker` the diagonal of row_covariance has the average 1.

    Warns:
        NotConvergedWarning: the search stopped early.
        IllConditionedWarning: the condition κ of the correlation matrix leaves fewer than 6 decimal digits (κ eps > 1e-6, that is
            κ > 4.5e9); it names κ, the digits and the variables. Of structures that are not dense: up to 500 variables.

    Raises:
        NotPositiveDefiniteError: no maximum: too few rows, constant columns, linear combinations, and variances, other than those
            of `LowRank`, that go to 0; the variables are named.
        NotIdentifiedError: no single maximum: more parameters than the data tell apart, variables that are never observed, or,
            for a dense Σ, pairs that are never observed together.
        ArgumentError, UnknownNameError: a structure that does not exist, or lacks its option.
        ShapeError, DtypeError, NotFiniteError: x is no table of numbers.

    Source: Jöreskog 1967, *Some contributions to maximum likelihood factor analysis*; Lawley & Maxwell 1971, *Factor Analysis as a
    Statistical Method*; Little & Rubin, *Statistical Analysis with Missing
    Data*; each structure's `start` names its own.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]])
        >>> estimate = mvnjac.fit(x, "diagonal")
        >>> estimate.mean, estimate.covariance.parameters["cov_diag"]
        (tensor([1.5000, 3.0000], dtype=torch.float64), tensor([1.2500, 3.5000], dtype=torch.float64))
    """
    if not 0 < lower < 1:
        raise ArgumentError(f"fit: lower is {lower!r}; expected a share of the variance, above 0 and below 1.")
    choice = choose(structure)
    model = _model(x, choice, names, missing)
    rows, each = _rows(model, x), None if weights is None else _valid_weights(weights, len(x), model.mean)
    if choice.instance is not None and choice.instance.mean is not None:
        sample: SufficientStatistics | None = SufficientStatistics.as_it_is(
            rows, each, model.arguments.naming
        )  # the means may be row by row
    else:
        kept = ~rows.isnan().all(-1) if each is None else ~rows.isnan().all(-1) & (each > 0)
        sample = SufficientStatistics.of(rows[kept], None if each is None else each[kept], model.arguments.naming)
    if sample is None:
        raise NotIdentifiedError("fit: x has no entry that is not missing.")
    result = fit_sample(sample, choice, names, missing, max_iterations, progress, lower)
    return result if x.ndim == 2 else result.shaped(x.shape[1:])


def _model(x: Tensor, choice: Choice, names: NamesArgument | None, missing: str | None) -> Model:
    """What says how the variables are called, and looks at x: any density of as many variables."""
    checks.floating("fit", "x", x)
    shape = choice.matrix_shape
    if x.ndim not in ((2,) if shape is None else (2, 3)) or not len(x):
        matrices = "" if shape is None else " or (n, {}, {})".format(*shape)
        raise ShapeError(f"fit: x has shape {tuple(x.shape)}; pass a table (n, d){matrices} of n ≥ 1 observations.")
    if not x[0].numel():
        raise ShapeError(f"fit: x has shape {tuple(x.shape)}: there are no variables.")
    if shape is not None and math.prod(shape) != x[0].numel():
        raise ShapeError(
            f"fit: {shape[0]} × {shape[1]} are {math.prod(shape)} variables, but x has shape {tuple(x.shape)}: choose as many."
        )
    mean = x.new_zeros(x.shape[1:], dtype=torch.float64)
    one = mean.new_ones(())
    form = Isotropic(one) if shape is None else Kronecker(torch.diag(one.expand(shape[0])), torch.diag(one.expand(shape[1])))
    return Model(parse("fit", mean, form, names=names, missing=missing, mean_name="x"))


def _rows(model: Model, x: Tensor) -> Tensor:
    """(n, d) float64, looked at."""
    rows = model.arguments.flat(x.detach().double())
    model.validate(rows)
    return rows


def _valid_weights(weights: Tensor, n: int, like: Tensor) -> Tensor:
    checks.floating("fit", "weights", weights)
    if weights.shape != (n,):
        raise ShapeError(f"fit: weights has shape {tuple(weights.shape)}; expected one number a row: ({n},).")
    weights = weights.detach().to(like)
    require_counts("fit", weights)
    return weights
