"""Maximum-likelihood estimation of the mean and of a covariance of any structure."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import LOWER
from mvnjac.covariance.structured.isotropic import Isotropic
from mvnjac.covariance.structured.kronecker import Kronecker
from mvnjac.errors import ArgumentError, NotIdentifiedError, ShapeError
from mvnjac.estimation.fitted_rows import FittedRows
from mvnjac.estimation.maximum import fit_sample
from mvnjac.estimation.result import Fit
from mvnjac.estimation.structure import Choice, choose
from mvnjac.model.arguments import parse
from mvnjac.model.inputs import table_rows
from mvnjac.model.model import Model
from mvnjac.parameters import checks
from mvnjac.parameters.names import NamesArgument
from mvnjac.progress.displays import requested
from mvnjac.progress.stages import Callback
from mvnjac.score.row_arguments import require_counts
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tables.arrays import as_tensor
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
    progress: bool | Callback | None = None,
    lower: float = LOWER,
) -> Fit:
    """Estimate the mean and the covariance by maximum likelihood.

    The estimate has a closed form for complete rows and some structures: the sample mean; for dense parametrisations S = Σ w (x
    − x̄)(x − x̄)ᵀ / Σ w (divisor n, not n − 1); and functions of S for `Diagonal`, `Isotropic`, `CompoundSymmetric` and
    `BandedPrecision`. Otherwise L-BFGS, preconditioned with the Fisher information, runs from starting values that the
    structure supplies (EM steps for a dense Σ with missing entries) until every total score is below 1e-8 times the square root
    of its information. Factor models are searched from several starting values, with a lower bound on the unique variances;
    with complete rows the search is over the unique variances alone. Rows with the same pattern of observed entries enter
    through their mean and scatter only, so a million complete rows cost no more than 2d rows.

    Args:
        x: (n, d) observations in rows, float32 or float64; for `Kronecker` also (n, m, q). Computations and the estimate are in
            float64: an estimate rounded to float32 would not be a maximum.
        structure: "dense", "diagonal", "isotropic", "low-rank:5" (5 factors), "kronecker:3x4" (rows × columns), "toeplitz",
            "compound-symmetric", "banded-precision:2" (bandwidth), "ar:2" (order), or the name of a dense parametrisation
            ("cholesky", "scale-correlation", …: the same Σ in other parameters); or a class; or an instance, whose parameters
            are the starting values (the only way for `Parametric` and `BlockDiagonal`).
        missing: "marginalise": NaN is a missing entry, and each row has the marginal distribution of its observed entries.
        weights: (n,) nonnegative; a row with weight 2 counts as two equal rows.
        names: the names of the variables, for columns and messages.
        max_iterations: the most iterations of the search, from each starting value.
        progress: True shows the stages of the computation and the quantity on which the search stops, while it runs: on a
            terminal or in a notebook, otherwise as a line on stderr every few seconds. A function is called with (stage,
            iteration, log-likelihood); with several starting values, with the largest so far. By default nothing is shown.
        lower: the lower bound of the unique variances (`cov_diag` of `LowRank`), as a share of the variable's sample variance,
            between 0 and 1; R's factanal has the same bound. Other structures have no bound.

    Returns:
        A `Fit`. `converged` says whether the estimate is a maximum; an iterative search finds a local one. `boundary` names the
        unique variances at their bound (Heywood cases). Where several parameter values give the same Σ, a convention selects
        one: for `LowRank` WᵀD⁻¹W is diagonal and descending, and the correlations with every factor have a positive sum; for
        `Kronecker` the mean of the diagonal of row_covariance is 1.

    Warns:
        NotConvergedWarning: the search stopped early.
        IllConditionedWarning: the condition number κ of the correlation matrix leaves fewer than 6 decimal digits (κ eps >
            1e-6, that is κ > 4.5e9); it names κ, the digits and the variables. Structures other than dense are checked up to
            500 variables.

    Raises:
        NotPositiveDefiniteError: there is no maximum: too few rows, constant columns, linear combinations, or variances, other
            than those of `LowRank`, that go to 0; the variables are named.
        NotIdentifiedError: there is no unique maximum: more parameters than the data identify, variables that are never
            observed, or, for a dense Σ, pairs that are never observed together.
        ArgumentError, UnknownNameError: the structure does not exist, or its option is missing.
        ShapeError, DtypeError, NotFiniteError: x is not a table of finite numbers.

    Source: Jöreskog 1967, *Some contributions to maximum likelihood factor analysis*; Lawley & Maxwell 1971, *Factor Analysis
    as a Statistical Method*; Little & Rubin, *Statistical Analysis with Missing Data*; `start` of each structure names its own.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]])
        >>> estimate = mvnjac.fit(x, "diagonal")
        >>> estimate.mean, estimate.covariance.parameters["cov_diag"]
        (tensor([1.5000, 3.0000], dtype=torch.float64), tensor([1.2500, 3.5000], dtype=torch.float64))
    """
    if not 0 < lower < 1:
        raise ArgumentError(f"fit: lower is {lower!r}; expected a share of the variance between 0 and 1, exclusive.")
    choice = choose(structure)
    x, names, index = table_rows("fit", x, names, missing)
    model = _model(x, choice, names, missing)
    rows = model.arguments.flat(x.detach().double())
    model.validate(rows)
    row_weights = None if weights is None else _valid_weights(weights, len(x), model.mean)
    sample: SufficientStatistics | None
    if choice.instance is not None and choice.instance.mean is not None:  # the mean may differ from row to row
        sample = SufficientStatistics.as_it_is(rows, row_weights, model.arguments.naming)
    else:
        used = ~rows.isnan().all(-1) if row_weights is None else ~rows.isnan().all(-1) & (row_weights > 0)
        sample = SufficientStatistics.of(rows[used], None if row_weights is None else row_weights[used], model.arguments.naming)
    if sample is None:
        raise NotIdentifiedError("fit: x has no entry that is not missing; pass at least one observed entry.")
    with requested("fit", progress) as shown:
        result = fit_sample(sample, choice, names, missing, max_iterations, shown, lower)
    result = replace(result, _data=FittedRows(x.detach(), row_weights, index))
    return result if x.ndim == 2 else result.shaped(x.shape[1:])


def _model(x: Tensor, choice: Choice, names: NamesArgument | None, missing: str | None) -> Model:
    """A density of the same variables, which checks x and names the variables in messages."""
    checks.floating("fit", "x", x)
    shape = choice.matrix_shape
    if x.ndim not in ((2,) if shape is None else (2, 3)) or not len(x):
        matrices = "" if shape is None else " or (n, {}, {})".format(*shape)
        raise ShapeError(f"fit: x has shape {tuple(x.shape)}; pass a table (n, d){matrices} of n ≥ 1 observations.")
    if not x[0].numel():
        raise ShapeError(f"fit: x has shape {tuple(x.shape)}: there are no variables.")
    if shape is not None and math.prod(shape) != x[0].numel():
        raise ShapeError(
            f"fit: {shape[0]} × {shape[1]} are {math.prod(shape)} variables, but x has shape {tuple(x.shape)}; "
            "choose a number of rows and columns whose product is the number of variables."
        )
    mean = x.new_zeros(x.shape[1:], dtype=torch.float64)
    one = mean.new_ones(())
    form = Isotropic(one) if shape is None else Kronecker(torch.diag(one.expand(shape[0])), torch.diag(one.expand(shape[1])))
    return Model(parse("fit", mean, form, names=names, missing=missing, mean_name="x"))


def _valid_weights(weights: Tensor, n: int, like: Tensor) -> Tensor:
    weights = as_tensor("fit", "weights", weights)
    checks.floating("fit", "weights", weights)
    if weights.shape != (n,):
        raise ShapeError(f"fit: weights has shape {tuple(weights.shape)}; expected one number a row: ({n},).")
    weights = weights.detach().to(like)
    require_counts("fit", weights)
    return weights
