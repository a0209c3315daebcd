"""hessian, fisher_information and natural_gradient: second order, as operators over the columns of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Size, Tensor
from torch.distributions import Distribution

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.covariance.structured.parametric import Parametric
from mvnjac.errors import ArgumentError
from mvnjac.fused.dense import prepared
from mvnjac.information.curvature import Curvature, DenseCurvature, StructuredCurvature
from mvnjac.information.entries import fisher_inverse_diagonal, fisher_matrix, hessian_matrix
from mvnjac.information.incomplete_curvature import IncompleteCurvature
from mvnjac.information.marginal_curvature import owners_of, suited
from mvnjac.information.operators import FisherInformation, Hessian
from mvnjac.information.parametric_curvature import ParametricCurvature
from mvnjac.missing.incomplete_residuals import IncompleteResiduals
from mvnjac.model.model import Model
from mvnjac.parameters.names import NamesArgument
from mvnjac.parameters.selection import Selection
from mvnjac.score import row_arguments
from mvnjac.score.evaluation import Derivatives
from mvnjac.tensors.allocation import guarded
from mvnjac.tensors.broadcasting import batch_shape
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
    model = Model("hessian", mean, covariance, names, precision, check, missing=missing)
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
    return fisher_of(Model("fisher_information", mean, covariance, names, precision, check), wrt, observed)


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
    ready = prepared(mean, covariance) if plain else None
    quick = None if ready is None else ready.rows(x)
    step = None if quick is None else quick.natural_gradient()
    if step is not None:
        return step
    model = Model("natural_gradient", mean, covariance, None, precision, check, missing=missing)
    return natural_gradient_of(model, x, wrt, weights)


# --- the same, of a model that is ready -------------------------------------------------------------------------------


def hessian_of(model: Model, x: Tensor, wrt: Wrt, weights: Tensor | None, reduce: bool) -> Hessian:
    """`hessian` at a prepared model."""
    derivatives, selection = _derivatives(model, x), _select(model, wrt)
    own = model.reduced_batch if reduce else derivatives.rows.batch
    with model.arithmetic():
        second = _curvature(model, _names(selection), derivatives.rows, param_batch=own)
        sums = second.statistics(derivatives, _weights(model, derivatives, weights), own)
    return _hessian(model, selection, own, second, sums, _scale(model, wrt, derivatives.rows))


def hessian_from(model: Model, wrt: Wrt, sums: WhitenedMoments) -> Hessian:
    """`hessian` by parameters of a dense parametrisation, from the sums of the whitened residuals of any number of rows."""
    selection = _select(model, wrt)
    with model.arithmetic():
        return _hessian(model, selection, model.batch, _curvature(model, _names(selection)), sums)


def _hessian(
    model: Model,
    selection: Selection,
    param_batch: Size,
    second: Curvature,
    sums: object,
    scale: Callable[[], Tensor] | None = None,
) -> Hessian:
    return Hessian(
        "hessian",
        model,
        selection,
        param_batch,
        partial(second.hessian, sums),
        partial(second.hessian_solve, sums),
        curvature=second,
        matrix=_incomplete(second, selection, sums, "matrix") or _direct(second, _hessian_matrix, sums),
        scale=scale,
    )


def fisher_of(model: Model, wrt: Wrt, observed: Tensor | None = None, weights: Tensor | None = None) -> FisherInformation:
    """`fisher_information` at a prepared model; with weights (n,), the rows that are observed so count so much."""
    model.validate(model.mean)
    selection = _select(model, wrt)
    with model.arithmetic():
        rows = None if observed is None else model.rows_observing(observed)
        second = _curvature(model, _names(selection), rows, weights)
    return _fisher(model, selection, second, _scale(model, wrt, rows))


def _scale(model: Model, wrt: Wrt, rows: Residuals | None) -> Callable[[], Tensor] | None:
    """The roots of the information's diagonal if nothing were missing: beside them what should be 0 is seen to be."""
    if not isinstance(rows, IncompleteResiduals):
        return None
    return partial(_information_scale, model, wrt)


def _information_scale(model: Model, wrt: Wrt) -> Tensor:
    return fisher_of(model, wrt).matrix().diagonal(dim1=-2, dim2=-1).sqrt()


def _fisher(
    model: Model, selection: Selection, second: Curvature, scale: Callable[[], Tensor] | None = None
) -> FisherInformation:
    return FisherInformation(
        "fisher_information",
        model,
        selection,
        model.reduced_batch,
        second.fisher,
        second.fisher_solve,
        curvature=second,
        matrix=_incomplete(second, selection, second, "fisher_matrix") or _direct(second, _fisher_matrix, model.batch),
        inverse_diagonal=_direct(second, _fisher_inverse_diagonal, model.batch),
        scale=scale,
    )


@guarded("natural_gradient", "take fewer rows or fewer variables.")
def natural_gradient_of(model: Model, x: Tensor, wrt: Wrt, weights: Tensor | None) -> dict[str, Tensor]:
    """`natural_gradient` at a prepared model."""
    derivatives, selection = _derivatives(model, x), _select(model, wrt)
    if any(part.index is not None for part in selection.parts):
        raise ArgumentError("natural_gradient: wrt names whole parameters here, not single elements of them.")
    with model.arithmetic():
        each = _weights(model, derivatives, weights)
        second = _curvature(model, _names(selection), derivatives.rows, each)
        natural = second.natural(derivatives.rows, each, model.reduced_batch)
        if natural is not None:
            return {name: model.shaped(name, change.to(model.dtype)) for name, change in natural.items()}
        sums = second.statistics(derivatives, each, model.reduced_batch)
        score, count = second.score(sums), second.count(sums)
        average = {name: t / count.reshape((*count.shape, *(1,) * (t.ndim - count.ndim))) for name, t in score.items()}
        change = second.fisher_solve(average)
    others = [name for name in _names(selection) if name not in change]
    if others:
        operator = _fisher(model, _select(model, others), second, _scale(model, others, derivatives.rows))
        slices = _select(model, others).slices()
        packed = torch.cat([part.coordinates.pack_gradient(average[part.name]) for part, _ in slices], -1)
        solution = operator.solve(packed.to(model.dtype))
        change |= {part.name: part.coordinates.unpack(solution[..., at]) for part, at in slices}
    return {name: model.shaped(name, change[name].to(model.dtype)) for name in _names(selection)}


def _curvature(
    model: Model,
    names: Sequence[str],
    rows: Residuals | None = None,
    weights: Tensor | None = None,
    param_batch: Size | None = None,
) -> Curvature:
    """Second order by these parameters, the way that suits them; and these (weighted) rows where some of their entries are missing.

    own: the batch that sums over the rows keep; by default that of the mean and the covariance.
    """
    covariance = model.covariance
    if isinstance(rows, IncompleteResiduals):
        return suited(model, names, rows, weights, model.reduced_batch if param_batch is None else param_batch)
    if set(names) <= {"mean", *covariance.fields} and not isinstance(covariance, DenseParametrisation):
        return (ParametricCurvature if isinstance(covariance, Parametric) else StructuredCurvature)(model, names)
    return DenseCurvature(model, names, owners_of(model, names))


def _derivatives(model: Model, x: Tensor) -> Derivatives:
    x = model.flat(x)
    return Derivatives(model, model.residuals(x), batch_shape(x, 1))


def _weights(model: Model, derivatives: Derivatives, weights: Tensor | None) -> Tensor | None:
    return row_arguments.row_weights(weights, "weights", derivatives.rows.batch, model.reduced_batch, model.working)


def _select(model: Model, wrt: Wrt) -> Selection:
    return Selection(wrt, "unique", model.default_names(), model.parameter_names(), model.coordinates, model.labels_of)


def _names(selection: Selection) -> list[str]:
    return list(dict.fromkeys(part.name for part in selection.parts))


def _direct(second: Curvature, matrix: Callable[..., Tensor], *given: object) -> Callable[[], Tensor] | None:
    """By the mean and Σ the matrix is written down entry by entry."""
    if isinstance(second, DenseCurvature) and second.names == ["mean", "covariance_matrix"]:
        return partial(matrix, second, *given)
    return None


def _incomplete(second: Curvature, selection: Selection, owner: object, name: str) -> Callable[[], Tensor] | None:
    """Of rows with missing entries, too, by the mean and Σ: whole parameters of the matrix over both, an attribute of `owner`."""
    if not isinstance(second, IncompleteCurvature) or not second.natural_coordinates or not second.formable:
        return None
    d, parts = second.rows.d, [part.name for part in selection.parts]
    if parts == ["mean", "covariance_matrix"]:
        return partial(getattr, owner, name)
    columns = {"mean": range(d), "covariance_matrix": range(d, d * (d + 3) // 2)}
    return partial(_chosen, owner, name, [column for part in parts for column in columns[part]])


def _chosen(owner: object, name: str, chosen: list[int]) -> Tensor:
    matrix: Tensor = getattr(owner, name)
    return matrix[chosen][:, chosen]


def _hessian_matrix(second: DenseCurvature, sums: WhitenedMoments) -> Tensor:
    return hessian_matrix(second.factor, sums)


def _fisher_matrix(second: DenseCurvature, batch: Size) -> Tensor:
    return fisher_matrix(second.factor, batch)


def _fisher_inverse_diagonal(second: DenseCurvature, batch: Size) -> Tensor:
    return fisher_inverse_diagonal(second.factor, batch)
