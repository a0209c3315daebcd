"""hessian, fisher_information and natural_gradient: second order, as operators over the columns of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from jaxtyping import Bool, Float
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.covariance.structured.parametric import Parametric
from mvnjac.errors import ArgumentError
from mvnjac.fused.dense import prepare
from mvnjac.information.curvature import Curvature, RowStatistics
from mvnjac.information.dense import DenseCurvature, DenseStatistics
from mvnjac.information.marginal import owners_of, suited
from mvnjac.information.operators import FisherInformation, Hessian
from mvnjac.information.parametric import ParametricCurvature
from mvnjac.information.structured import StructuredCurvature
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.parameters.names import NamesArgument
from mvnjac.parameters.selection import Selection
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.allocation import guarded
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import WhitenedMoments

Wrt = str | Iterable[str] | None


@guarded("hessian", "take fewer rows or fewer variables.")
def hessian(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*own d d"] | Covariance | None = None,
    *,
    wrt: Wrt = None,
    weights: Float[Tensor, "*rows"] | None = None,
    reduce: bool = True,
    names: NamesArgument | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Hessian:
    """The second derivatives of the log-density: the observed information, but for its sign.

    By the mean and Σ, with a = Σ⁻¹(x − µ), P = Σ⁻¹ and Q = P (2 r rᵀ − Σ) P, summed over the observations
    (Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15; D the duplication matrix):

        H_µµ = −P        H_vech Σ,µ = −Dᵀ (a ⊗ P)        H_vech Σ,vech Σ = −½ Dᵀ (P ⊗ Q) D

    Args:
        x, mean, covariance, names, missing, precision, check: as in `mvnjac.jacobian`.
        wrt: the columns, as in `Jacobian.matrix`: parameters of one parametrisation, or elements of them.
        weights: one a row; never normalised.
        reduce: the sum over the rows; False: one Hessian a row.

    Returns:
        A `Hessian` over the unique elements (off-diagonal elements move two entries): `.matvec(v)`, `.matrix()`, `.solve(b)`,
        `.columns()`. It is negative definite at the maximum of the likelihood.

    Raises:
        what `jacobian` raises; ArgumentError for parameters that do not belong together.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> H = mvnjac.hessian(x, torch.zeros(2), torch.eye(2))
        >>> H.matrix().diagonal()[:2]
        tensor([-2., -2.])
    """
    model = Model(parse("hessian", mean, covariance, names=names, missing=missing, precision=precision, check=check))
    return hessian_of(model, x, wrt, weights, reduce)


@guarded("fisher_information", "take fewer rows or fewer variables.")
def fisher_information(
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*own d d"] | Covariance | None = None,
    *,
    wrt: Wrt = None,
    observed: Bool[Tensor, "*rows d"] | None = None,
    names: NamesArgument | None = None,
    precision: str | None = None,
    check: bool = True,
) -> FisherInformation:
    """The expected information of one observation: the covariance of its score.

    By the mean and Σ (Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15; P = Σ⁻¹, D the duplication matrix); by other
    parameters as whitened inner products F_kl = ∂ₖµᵀ P ∂ₗµ + ½ tr(P ∂ₖΣ P ∂ₗΣ):

        F_µµ = P        F_µ,vech Σ = 0        F_vech Σ = ½ Dᵀ (P ⊗ P) D

    Args:
        mean, covariance, names, precision, check: as in `mvnjac.jacobian`.
        wrt: the columns, as in `Jacobian.matrix`.
        observed: (n, d) which entries of n observations are there, where some are missing: the information of the average one.

    Returns:
        A `FisherInformation` over the unique elements: `.matvec(v)`, `.matrix()`, `.solve(b)`, `.inverse()`,
        `.inverse_diagonal()`, `.columns()`. By all parameters of a dense parametrisation nothing is solved: the inverse
        by Σ has the entries σ_ik σ_jl + σ_il σ_jk.

    Raises:
        what `jacobian` raises.

    Example:
        >>> import torch, mvnjac
        >>> F = mvnjac.fisher_information(torch.zeros(2), torch.eye(2))
        >>> F.matrix().diagonal()
        tensor([1.0000, 1.0000, 0.5000, 1.0000, 0.5000])
    """
    return fisher_of(
        Model(parse("fisher_information", mean, covariance, names=names, precision=precision, check=check)), wrt, observed
    )


def natural_gradient(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*own d d"] | Covariance | None = None,
    *,
    wrt: Wrt = None,
    weights: Float[Tensor, "*rows"] | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> dict[str, Tensor]:
    """(n F)⁻¹ times the total score, in closed form: a step of 1 in the mean reaches the sample mean.

    By the mean it is the average of r = x − µ, by Σ the average of r rᵀ − Σ; by any other complete dense parametrisation, the
    change of the parameter that goes with these (Amari 1998, *Natural Gradient Works Efficiently in Learning*).

    Args:
        x, mean, covariance, missing, precision, check: as in `mvnjac.jacobian`. With missing entries F is the average over the
            rows' patterns, and nothing is closed form.
        wrt: names of whole parameters.
        weights: one a row.

    Returns:
        {name: tensor} in the parameters' shapes, with the leading dimensions of mean and covariance.

    Raises:
        what `jacobian` raises; SingularError where the information is singular.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
        >>> mvnjac.natural_gradient(x, torch.zeros(2), torch.eye(2))["mean"]
        tensor([2., 1.])
    """
    plain = wrt is None and weights is None and missing is None and precision is None
    prepared = prepare(mean, covariance) if plain else None
    fused = None if prepared is None else prepared.rows(x)
    step = None if fused is None else fused.natural_gradient()
    if step is not None:
        return step
    model = Model(parse("natural_gradient", mean, covariance, missing=missing, precision=precision, check=check))
    return natural_gradient_of(model, x, wrt, weights)


# --- the same, at a parsed model --------------------------------------------------------------------------------------


def hessian_of(model: Model, x: Tensor, wrt: Wrt, weights: Tensor | None, reduce: bool) -> Hessian:
    """`hessian` at a model."""
    evaluation, selection = GeneralEvaluation.at(model, x), model.arguments.select(wrt)
    batch = model.reduced_batch if reduce else evaluation.rows.batch
    with model.arithmetic():
        curvature = _curvature(model, _names(selection), evaluation.rows, param_batch=batch)
        statistics = curvature.statistics(evaluation, evaluation.row_weights(weights), batch)
    return _hessian(model, selection, batch, curvature, statistics, _scale(model, wrt, evaluation.rows))


def hessian_from(model: Model, wrt: Wrt, moments: WhitenedMoments) -> Hessian:
    """`hessian` with respect to dense parameters, from the sums of the whitened residuals of any number of rows."""
    selection = model.arguments.select(wrt)
    names = _names(selection)
    with model.arithmetic():
        curvature = DenseCurvature(model, names, owners_of(model, names))
        return _hessian(model, selection, model.batch, curvature, DenseStatistics(curvature, moments))


def _hessian(
    model: Model,
    selection: Selection,
    batch: Size,
    curvature: Curvature,
    statistics: RowStatistics,
    scale: Callable[[], Tensor] | None = None,
) -> Hessian:
    return Hessian(
        "hessian",
        model,
        selection,
        batch,
        statistics.hessian,
        statistics.hessian_solve,
        curvature=curvature,
        matrix=statistics.hessian_matrix(selection),
        scale=scale,
    )


def fisher_of(model: Model, wrt: Wrt, observed: Tensor | None = None, weights: Tensor | None = None) -> FisherInformation:
    """`fisher_information` at a model; weights (n,): of the rows of `observed`, in their average."""
    model.validate(model.mean)
    selection = model.arguments.select(wrt)
    with model.arithmetic():
        rows = None if observed is None else model.rows_observing(observed)
        curvature = _curvature(model, _names(selection), rows, weights)
    return _fisher(model, selection, curvature, _scale(model, wrt, rows))


def _scale(model: Model, wrt: Wrt, rows: Residuals | None) -> Callable[[], Tensor] | None:
    """The roots of the diagonal of the information without missing entries, relative to which rounding errors are recognised."""
    if not isinstance(rows, IncompleteResiduals):
        return None
    return partial(_information_scale, model, wrt)


def _information_scale(model: Model, wrt: Wrt) -> Tensor:
    return fisher_of(model, wrt).matrix().diagonal(dim1=-2, dim2=-1).sqrt()


def _fisher(
    model: Model, selection: Selection, curvature: Curvature, scale: Callable[[], Tensor] | None = None
) -> FisherInformation:
    return FisherInformation(
        "fisher_information",
        model,
        selection,
        model.reduced_batch,
        curvature.fisher,
        curvature.fisher_solve,
        curvature=curvature,
        matrix=curvature.fisher_matrix(selection),
        inverse_diagonal=curvature.fisher_inverse_diagonal(),
        scale=scale,
    )


@guarded("natural_gradient", "take fewer rows or fewer variables.")
def natural_gradient_of(model: Model, x: Tensor, wrt: Wrt, weights: Tensor | None) -> dict[str, Tensor]:
    """`natural_gradient` at a model."""
    evaluation, selection = GeneralEvaluation.at(model, x), model.arguments.select(wrt)
    if any(part.index is not None for part in selection.parts):
        raise ArgumentError("natural_gradient: wrt names whole parameters here, not single elements of them.")
    names = _names(selection)
    with model.arithmetic():
        weights = evaluation.row_weights(weights)
        curvature = _curvature(model, names, evaluation.rows, weights)
        step = curvature.natural(evaluation.rows, weights, model.reduced_batch)
        if step is None:
            statistics = curvature.statistics(evaluation, weights, model.reduced_batch)
            score, count = statistics.score(), statistics.count
            average = {name: t / count.reshape((*count.shape, *(1,) * (t.ndim - count.ndim))) for name, t in score.items()}
            step = curvature.fisher_solve(average)
    others = [name for name in names if name not in step]
    if others:
        rest = model.arguments.select(others)
        operator = _fisher(model, rest, curvature, _scale(model, others, evaluation.rows))
        step |= rest.unpack(operator.solve(rest.pack(average, gradients=True).to(model.dtype)))
    return {name: model.arguments.shaped(name, step[name].to(model.dtype)) for name in names}


def _curvature(
    model: Model,
    names: Sequence[str],
    rows: Residuals | None = None,
    weights: Tensor | None = None,
    param_batch: Size | None = None,
) -> Curvature:
    """The implementation for these parameters, and for these (weighted) rows if some of their entries are missing.

    param_batch: the batch that sums over the rows keep; by default that of the mean and the covariance.
    """
    covariance = model.covariance
    if isinstance(rows, IncompleteResiduals):
        return suited(model, names, rows, weights, model.reduced_batch if param_batch is None else param_batch)
    if set(names) <= {"mean", *covariance.fields} and not isinstance(covariance, DenseParametrisation):
        return (ParametricCurvature if isinstance(covariance, Parametric) else StructuredCurvature)(model, names)
    return DenseCurvature(model, names, owners_of(model, names))


def _names(selection: Selection) -> list[str]:
    return list(dict.fromkeys(part.name for part in selection.parts))
