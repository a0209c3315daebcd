"""The public functions hessian, fisher_information and natural_gradient, and the same at a parsed `Model`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from jaxtyping import Bool, Float
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import ArgumentError
from mvnjac.fused.dense import prepare
from mvnjac.information.curvature import Curvature, DirectMatrix
from mvnjac.information.dense import DenseCurvature, DenseStatistics
from mvnjac.information.marginal import incomplete_curvature, owners_of
from mvnjac.information.operators import FisherInformation, Hessian
from mvnjac.information.parametric import ParametricCurvature
from mvnjac.information.structured import StructuredCurvature
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model.inputs import density_of, observed_rows, with_rows
from mvnjac.model.model import Model
from mvnjac.parameters.names import NamesArgument
from mvnjac.parameters.selection import Selection
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.broadcasting import over_event
from mvnjac.whitening.residuals import Residuals
from mvnjac.whitening.sums import WhitenedMoments

Wrt = str | Iterable[str] | None


@guarded("hessian", "take fewer rows or fewer variables.")
def hessian(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*param_batch d d"] | Covariance | None = None,
    *,
    wrt: Wrt = None,
    weights: Float[Tensor, "*rows"] | None = None,
    reduce: bool = True,
    names: NamesArgument | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Hessian:
    """The Hessian of the log-density, summed over the rows: minus the observed information.

    With respect to the mean and Σ, with r = x − µ, P = Σ⁻¹, a = P r, Q = P (2 r rᵀ − Σ) P and the duplication matrix D, one row
    contributes

        H_µµ = −P        H_vech Σ,µ = −Dᵀ (a ⊗ P)        H_vech Σ,vech Σ = −½ Dᵀ (P ⊗ Q) D

    Args:
        x: (n, d) the observations, or any shape (..., d) that `mvnjac.jacobian` accepts.
        mean, covariance, names, missing, precision, check: as in `mvnjac.jacobian`.
        wrt: the columns, as in `Jacobian.matrix`: parameters of one parametrisation, or elements of them.
        weights: (n,) one weight per row, used without normalisation.
        reduce: True for the sum over the rows, False for one Hessian per row.

    Returns:
        A `Hessian` over p unique elements (an off-diagonal element changes two entries of a symmetric matrix), with the methods
        `.matvec(v)`, `.matrix()`, `.solve(b)`, `.columns()`. It is negative definite at a regular maximum of the likelihood.

    Raises:
        The errors that `mvnjac.jacobian` raises; ArgumentError if the parameters belong to more than one parametrisation.

    Source: Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> H = mvnjac.hessian(x, torch.zeros(2), torch.eye(2))
        >>> H.matrix().diagonal()[:2]
        tensor([-2., -2.])
    """
    given = with_rows(
        density_of("hessian", mean, covariance, names=names, missing=missing, precision=precision, check=check), x
    )
    return hessian_of(given.model, given.x, wrt, weights, reduce)


@guarded("fisher_information", "take fewer rows or fewer variables.")
def fisher_information(
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*param_batch d d"] | Covariance | None = None,
    *,
    wrt: Wrt = None,
    observed: Bool[Tensor, "*rows d"] | None = None,
    names: NamesArgument | None = None,
    precision: str | None = None,
    check: bool = True,
) -> FisherInformation:
    """The expected (Fisher) information of one observation: the covariance matrix of its score.

    With respect to the mean and Σ, with P = Σ⁻¹ and the duplication matrix D:

        F_µµ = P        F_µ,vech Σ = 0        F_vech Σ = ½ Dᵀ (P ⊗ P) D

    With respect to other parameters, from whitened inner products: F_kl = ∂ₖµᵀ P ∂ₗµ + ½ tr(P ∂ₖΣ P ∂ₗΣ).

    Args:
        mean, covariance, names, precision, check: as in `mvnjac.jacobian`.
        wrt: the columns, as in `Jacobian.matrix`.
        observed: (n, d) True where an entry is observed; the result is then the average information of these n rows. None: all
            entries are observed.

    Returns:
        A `FisherInformation` over p unique elements, with the methods `.matvec(v)`, `.matrix()`, `.solve(b)`, `.inverse()`,
        `.inverse_diagonal()`, `.columns()`. For all parameters of a dense parametrisation without missing entries the inverse
        has a closed form: with respect to Σ its entries are σ_ik σ_jl + σ_il σ_jk.

    Raises:
        The errors that `mvnjac.jacobian` raises; ShapeError, ArgumentError if `observed` is not a boolean tensor (..., d).

    Source: Magnus & Neudecker, *Matrix Differential Calculus*, ch. 15.

    Example:
        >>> import torch, mvnjac
        >>> F = mvnjac.fisher_information(torch.zeros(2), torch.eye(2))
        >>> F.matrix().diagonal()
        tensor([1.0000, 1.0000, 0.5000, 1.0000, 0.5000])
    """
    model = density_of("fisher_information", mean, covariance, names=names, precision=precision, check=check)
    return fisher_of(model, wrt, observed)


def natural_gradient(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*param_batch d d"] | Covariance | None = None,
    *,
    wrt: Wrt = None,
    weights: Float[Tensor, "*rows"] | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> dict[str, Tensor]:
    """The natural gradient (n F)⁻¹ s of the log-likelihood, with the total score s and the Fisher information F.

    With respect to the mean it is the average of r = x − µ, so that a step of 1 leads to the sample mean; with respect to Σ it
    is the average of r rᵀ − Σ. For all parameters of another dense parametrisation it is the corresponding change of these
    parameters, in closed form.

    Args:
        x: (n, d) the observations, or any shape (..., d) that `mvnjac.jacobian` accepts.
        mean, covariance, missing, precision, check: as in `mvnjac.jacobian`. With missing entries F is the average over the
            patterns of the rows, and a linear system is solved.
        wrt: names of whole parameters; by default all parameters.
        weights: (n,) one weight per row; n is then their sum.

    Returns:
        {name: tensor} in the shapes of the parameters, with the leading dimensions of mean and covariance.

    Raises:
        The errors that `mvnjac.jacobian` raises; ArgumentError if wrt names single elements; SingularError if F is singular.

    Source: Amari (1998), *Natural Gradient Works Efficiently in Learning*.

    Example:
        >>> import torch, mvnjac
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
        >>> mvnjac.natural_gradient(x, torch.zeros(2), torch.eye(2))["mean"]
        tensor([2., 1.])
    """
    defaults = wrt is None and weights is None and missing is None and precision is None
    prepared = prepare(mean, covariance) if defaults else None
    fused = None if prepared is None else prepared.rows(x)
    step = None if fused is None else fused.natural_gradient()
    if step is not None:
        return step
    given = with_rows(density_of("natural_gradient", mean, covariance, missing=missing, precision=precision, check=check), x)
    return natural_gradient_of(given.model, given.x, wrt, weights)


# --- the same at a parsed model ----------------------------------------------------------------------------------------


def hessian_of(model: Model, x: Tensor, wrt: Wrt, weights: Tensor | None, reduce: bool) -> Hessian:
    """`hessian` at a model."""
    evaluation, selection = GeneralEvaluation.at(model, x), model.arguments.select(wrt)
    batch = model.reduced_batch if reduce else evaluation.rows.batch
    with model.arithmetic():
        curvature = _curvature(model, _names(selection), evaluation.rows, param_batch=batch)
        statistics = curvature.statistics(evaluation, evaluation.row_weights(weights), batch)
    return Hessian(model, selection, batch, curvature, statistics, _scale(model, wrt, evaluation.rows))


def hessian_from(model: Model, wrt: Wrt, moments: WhitenedMoments) -> Hessian:
    """`hessian` with respect to dense parameters, from the moments of the whitened residuals of any number of rows."""
    selection = model.arguments.select(wrt)
    names = _names(selection)
    with model.arithmetic():
        curvature = DenseCurvature(model, names, owners_of(model, names))
        return Hessian(model, selection, model.batch, curvature, DenseStatistics(curvature, moments))


def fisher_of(model: Model, wrt: Wrt, observed: Tensor | None = None, weights: Tensor | None = None) -> FisherInformation:
    """`fisher_information` at a model; weights (n,) of the rows of `observed` make it a weighted average."""
    model.validate(model.mean)
    selection = model.arguments.select(wrt)
    with model.arithmetic():
        rows = (
            None
            if observed is None
            else model.rows_observing(observed_rows(model.arguments.function, observed, model.arguments.names))
        )
        curvature = _curvature(model, _names(selection), rows, weights)
    return FisherInformation(model, selection, curvature, _scale(model, wrt, rows))


@guarded("natural_gradient", "take fewer rows or fewer variables.")
def natural_gradient_of(model: Model, x: Tensor, wrt: Wrt, weights: Tensor | None) -> dict[str, Tensor]:
    """`natural_gradient` at a model."""
    evaluation, selection = GeneralEvaluation.at(model, x), model.arguments.select(wrt)
    elements = [label for part in selection.parts for label in part.labels]
    if elements:
        raise ArgumentError(f"natural_gradient: wrt has {elements[0]!r}; expected names of whole parameters.")
    names = _names(selection)
    with model.arithmetic():
        weights = evaluation.row_weights(weights)
        curvature = _curvature(model, names, evaluation.rows, weights)
        step = curvature.natural(evaluation.rows, weights, model.reduced_batch)
        if step is None:
            statistics = curvature.statistics(evaluation, weights, model.reduced_batch)
            count = statistics.count
            average = {name: t / over_event(count, t.ndim - count.ndim) for name, t in statistics.score().items()}
            step = curvature.fisher_solve(average)
    others = [name for name in names if name not in step]
    if others:
        rest = model.arguments.select(others)
        operator = FisherInformation(model, rest, curvature, _scale(model, others, evaluation.rows))
        step |= rest.unpack(operator.solve(rest.pack(average, gradients=True).to(model.dtype)))
    return {name: model.arguments.shaped(name, step[name].to(model.dtype)) for name in names}


# --- implementations ----------------------------------------------------------------------------------------------------


def _curvature(
    model: Model,
    names: Sequence[str],
    rows: Residuals | None = None,
    weights: Tensor | None = None,
    param_batch: Size | None = None,
) -> Curvature:
    """The implementation for these parameters and, with missing entries, for these (weighted) rows.

    param_batch: the batch of sums over the rows; by default that of the mean and the covariance.
    """
    covariance = model.covariance
    if isinstance(rows, IncompleteResiduals):
        batch = model.reduced_batch if param_batch is None else param_batch
        return incomplete_curvature(model, names, rows, weights, batch)
    if set(names) <= {"mean", *covariance.fields} and not isinstance(covariance, DenseParametrisation):
        return (ParametricCurvature if covariance.second_order_by_chain_rule else StructuredCurvature)(model, names)
    return DenseCurvature(model, names, owners_of(model, names))


def _scale(model: Model, wrt: Wrt, rows: Residuals | None) -> DirectMatrix | None:
    """With missing entries, the scale of the parameters relative to which rounding errors are recognised."""
    return partial(_information_scale, model, wrt) if isinstance(rows, IncompleteResiduals) else None


def _information_scale(model: Model, wrt: Wrt) -> Tensor:
    """The square roots of the diagonal of the information without missing entries."""
    return fisher_of(model, wrt).matrix().diagonal(dim1=-2, dim2=-1).sqrt()


def _names(selection: Selection) -> list[str]:
    return list(dict.fromkeys(part.name for part in selection.parts))
