"""Maximum likelihood: the mean and the covariance of any structure, from rows of observations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac import model_file
from mvnjac.covariance import checks
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.isotropic import Isotropic
from mvnjac.errors import ArgumentError, NotConvergedWarning, NotPositiveDefiniteError, ShapeError
from mvnjac.gaussian import Gaussian
from mvnjac.inference.likelihood import Likelihood, Point
from mvnjac.inference.quasi_newton import Ascent, ascend
from mvnjac.inference.structure import Choice, choose
from mvnjac.model import Model
from mvnjac.sample import Sample

#: (phase, iteration, log-likelihood) → None
Progress = Callable[[str, int, float], None]

#: a variance below this share of the sample's, and still falling, has left the interior
_VANISHED = 1e-8


@dataclass(frozen=True)
class Fit:
    """A mean and a covariance estimated by maximum likelihood. Made by `fit`.

    Attributes:
        gaussian: the estimate, ready for many calls, float64.
        log_likelihood: Σ w log p over the rows, at the estimate.
        rows: how many rows there were (of positive weight).
        iterations: of the search; 0 where the maximum is closed form.
        converged: whether this is a maximum: `score_ratio` is below 1e-6.
        score_ratio: √(sᵀ I⁻¹ s) with s the total score and I the total information: no total score is larger, in units of the
            square root of its information, by any parameter of any parametrisation. The search goes on until it is below 1e-8.
        message: the same in words.
    """

    gaussian: Gaussian
    log_likelihood: float
    rows: int
    iterations: int
    converged: bool
    score_ratio: float
    message: str
    _total: float = field(repr=False)

    @property
    def mean(self) -> Float[Tensor, "d"]:
        """µ."""
        return self.gaussian.mean

    @property
    def covariance(self) -> Covariance:
        """Σ, of the structure that was asked for."""
        return self.gaussian.covariance

    @property
    def names(self) -> list[str] | None:
        """The variables' names."""
        return self.gaussian.names

    def standard_errors(self) -> dict[str, Tensor]:
        """The standard errors of the estimates, from the inverse of the expected information; in the parameters' own shapes.

        Of a symmetric parameter both entries have that of the one element; what cannot vary has 0. Parameters that are known up
        to a rotation only (cov_factor) have none, and are left out.

        Raises:
            MemoryLimitError: the information has no closed inverse and its matrix cannot fit.
        """
        model = self.gaussian._model
        operator = self.gaussian.fisher_information()
        errors = (operator.inverse_diagonal() / self._total).sqrt()
        result, first = {}, 0
        for name in model.default_names():
            kind = model.coordinates(name)
            if name not in self.covariance.unidentified:
                result[name] = kind.unpack(errors[..., first : first + kind.size])
            first += kind.size
        return result

    def save(self, path: str | Path) -> None:
        """Write the estimate as a model: a .safetensors file, complete or absent, that `mvnjac.load` and `mvnjac score --model` read.

        Raises:
            ArgumentError: a `Parametric`, which is a function.
            TableError: the file cannot be written.
        """
        about = {
            "rows": str(self.rows),
            "log_likelihood": repr(self.log_likelihood),
            "converged": str(self.converged).lower(),
            "score_ratio": repr(self.score_ratio),
        }
        model_file.write(Path(path), self.gaussian, about)

    def __str__(self) -> str:
        return (
            f"{self.covariance!r} of {self.mean.shape[-1]} variables, {self.rows} rows: log-likelihood {self.log_likelihood:.10g}; "
            f"{self.message}"
        )


def fit(
    x: Float[Tensor, "n d"],
    structure: str | type[Covariance] | Covariance = "dense",
    *,
    weights: Float[Tensor, "n"] | None = None,
    names: Sequence[str] | None = None,
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
    given, weights, namer = _arguments(x, weights, names)
    if choice.instance is not None and choice.instance.mean is not None:
        each = given.new_ones(len(given)) if weights is None else weights
        sample = Sample(len(given), torch.zeros_like(given[0]), given, each, [], namer)
    else:
        sample = Sample.of(given, weights, namer)
    return fit_sample(sample, choice, names, max_iterations, progress)


def fit_sample(
    sample: Sample,
    choice: Choice,
    names: Sequence[str] | None = None,
    max_iterations: int = 1000,
    progress: Progress | None = None,
) -> Fit:
    """`fit` to a sample that may have come in batches."""
    start = choice.start(sample)
    start.require_maximum(sample)
    units = sample.variances.sqrt()
    rescaled = None if start.closed_form else start.rescaled(1 / units)  # a search sees variables of variance 1
    likelihood = Likelihood(sample, start) if rescaled is None else Likelihood(sample.in_units(units), rescaled)
    shift = 0.0 if rescaled is None else -sample.total * float(units.log().sum())

    def watch(iteration: int, point: Point) -> None:
        _refuse_vanished(likelihood.sample, point)
        if progress is not None:
            progress("fitting", iteration, point.value + shift)

    ascent = ascend(likelihood, 0 if start.closed_form else max_iterations, watch)
    point, structure = ascent.point, ascent.point.structure
    converged, message = _verdict(ascent, start.closed_form)
    if not converged:
        warnings.warn(f"{sample.name}: {message}", NotConvergedWarning, stacklevel=3)
    structure = (structure if rescaled is None else structure.rescaled(units) or structure).normalised()
    gaussian = _gaussian(sample, structure, choice, names)
    return Fit(
        gaussian, point.value + shift, sample.count, ascent.iterations, converged, point.score_ratio, message, sample.total
    )


def _verdict(ascent: Ascent, closed_form: bool) -> tuple[bool, str]:
    size = f"no total score is above {ascent.point.score_ratio:.1e} of the square root of its information"
    if closed_form:
        return True, f"the maximum in closed form; {size}"
    if ascent.converged:
        return True, f"converged after {ascent.iterations} iterations: {size}"
    return False, (
        f"NOT converged, {ascent.stopped}: total scores of up to {ascent.point.score_ratio:.1e} of the square root of their "
        "information are left; raise max_iterations, or start from an instance nearby."
    )


def _gaussian(sample: Sample, structure: Covariance, choice: Choice, names: Sequence[str] | None) -> Gaussian:
    """The estimate, in the parametrisation that was asked for."""
    gaussian = Gaussian(None if structure.mean is not None else sample.origin, structure, names=names)
    if isinstance(structure, choice.cls):
        return gaussian
    values = {name: gaussian.parameter(name) for name in choice.cls.fields}
    return Gaussian(sample.origin, choice.cls(**values), names=names)


def _refuse_vanished(sample: Sample, point: Point) -> None:
    """A variance that goes to 0 uphill takes the likelihood to the edge, where it has no maximum: a Heywood case."""
    for name in point.structure.positive:
        values = point.structure.parameters[name]
        own = values.shape == sample.variances.shape
        shares = values / (sample.variances if own else sample.variances.mean())
        falling = point.scores(name) < 0
        gone = ((shares < _VANISHED) & falling).reshape(-1).nonzero().squeeze(-1).tolist()
        if gone:
            named = f"{name} of {', '.join(map(sample.namer, gone))}" if own else name
            raise NotPositiveDefiniteError(
                f"{sample.name}: {named} goes to 0, and the likelihood rises on the way (a Heywood case): it has no maximum with "
                f"positive {name} near here. Take fewer factors, leave the variable out, or start from an instance elsewhere."
            )


def _arguments(
    x: Tensor, weights: Tensor | None, names: Sequence[str] | None
) -> tuple[Tensor, Tensor | None, Callable[[int], str]]:
    """The rows of positive weight in float64, their weights, and how variables are called."""
    checks.floating("fit", "x", x)
    if x.ndim != 2 or not len(x):
        raise ShapeError(f"fit: x has shape {tuple(x.shape)}; pass a table (n, d) of n ≥ 1 observations.")
    x = x.detach()
    model = Model("fit", x.new_zeros(x.shape[1]), Isotropic(x.new_ones(())), names, None, True)
    model.validate(x)
    x = x.double()
    if weights is None:
        return x, None, model.naming
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
    return x[weights > 0], weights[weights > 0], model.naming
