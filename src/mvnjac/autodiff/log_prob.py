"""The log-density, differentiable to any order by closed forms.

Two functions carry all of it: the total score S = Σ wₙ ∇ℓₙ (`GeneralEvaluation.totals`) and each row's directional derivative Dₙ(v)
(`GeneralEvaluation.directional`). `LogProb` differentiates to `Score` in reverse and to D forwards; `Score` differentiates by itself
through the one scalar

    φ(w, x, µ, θ; v) = Σ wₙ Dₙ(v)         ∂φ/∂w = D(v),    ∂φ/∂(x, µ, θ) = H v,    symmetric in H:

its cotangents (v a cotangent) and its tangents (v a tangent) are gradients of φ, which plain reverse mode takes.
Both are given to `vmap` as the larger batch that they mean, so that a shared factor stays shared. Every rule starts from the
arguments, and hands its work to another Function (`autodiff/higher_order.py` says why). Saved between forward and backward: the
arguments, the factor, and where rows are many the sums of whitened residuals, d² numbers, or a factor model's totals.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.autograd import Function
from torch.distributions import Distribution

from mvnjac.autodiff.directional import argument_names, directional, event_dimensions, gradient_of_phi, param_batches, repeated
from mvnjac.autodiff.higher_order import HigherOrderFunction, combine, partition
from mvnjac.covariance.base import Covariance
from mvnjac.fused.dense import fused_rows
from mvnjac.fused.training_step import training_step
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import batch_shape, broadcast
from mvnjac.tensors.tracing import is_concrete, is_on_host, is_traced, nan_where, recorded, savable, transforming
from mvnjac.whitening.cache import Snapshot
from mvnjac.whitening.residuals import Residuals


def log_prob(
    x: Float[Tensor, "*rows d"],
    mean: Float[Tensor, "*batch d"] | Distribution | Covariance | None,
    covariance: Float[Tensor, "*own d d"] | Covariance | None = None,
    *,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Float[Tensor, "*out"]:
    """The log-density of a multivariate normal distribution.

        log p(x) = −½ (d log 2π + log det Σ + ‖z‖²),        z = L⁻¹(x − µ),  Σ = L Lᵀ

    It differentiates by the closed forms of `mvnjac.jacobian`, to any order: `backward`, `torch.autograd` with create_graph,
    forward mode, torch.func (grad, vjp, jvp, jacrev, jacfwd, hessian, vmap and their compositions), torch.compile and
    torch.export. Gradients and tangents by symmetric parameters are symmetric.

    Args:
        x: (..., d) rows; (..., m, q) where the mean is of matrices, too (`mvnjac.Kronecker`).
        mean: (..., d) µ, in units of x; or a distribution in place of mean and covariance, as in `mvnjac.jacobian`.
        covariance: Σ (..., d, d), or a structure such as `mvnjac.Precision`. Leading dimensions broadcast.
        missing: "marginalise" takes NaN in x as a missing entry, as in `mvnjac.jacobian`.
        precision: "float64" works float32 arguments in float64 inside and rounds the result.
        check: look at the numbers and raise where they are no density; False leaves NaN there. Under torch.compile, and where
            vmap maps over an argument, the numbers cannot be looked at: the result is NaN.

    Returns:
        (...) natural logarithms, differentiable by all arguments.

    Raises:
        MvnjacError: what `jacobian` raises.

    Example:
        >>> import torch, mvnjac
        >>> x, mean, sigma = torch.ones(3, 2), torch.zeros(2), torch.eye(2)
        >>> mvnjac.log_prob(x, mean, sigma)
        tensor([-2.8379, -2.8379, -2.8379])
        >>> torch.func.grad(lambda S: mvnjac.log_prob(x, mean, S).sum())(sigma)
        tensor([[0.0000, 1.5000],
                [1.5000, 0.0000]])
    """
    if missing is None and precision is None:
        quick = fused_rows(x, mean, covariance, gradients=False, check=check)
        result = training_step(x, mean, covariance, _general_gradients) if quick is None else quick.log_prob()
        if result is not None:
            return result
    return evaluate(Model(parse("log_prob", mean, covariance, missing=missing, precision=precision, check=check)), x)


def evaluate(model: Model, x: Tensor) -> Tensor:
    """The log-density of the rows of x, with the closed forms as its derivatives."""
    return _evaluate_rows(model, model.arguments.flat(x))


def _evaluate_rows(model: Model, x: Tensor) -> Tensor:
    if not is_traced(x, *model.arguments.given):
        return model.log_prob(model.rows(x))
    mean, covariance = model.covariance.evaluated()  # what leads from θ to them is the user's, and differentiates as it is
    if covariance is not model.covariance:
        return _evaluate_rows(Model(model.arguments.with_parameters(model.mean if mean is None else mean, covariance)), x)
    if recorded() and not _compiles_rules(x, *model.arguments.given):
        return _with_nan_derivatives(model.log_prob(model.rows(x)))
    model.arguments.require_rows(x)
    by_covariance = any(t.requires_grad for t in model.covariance.parameters.values())  # the mean alone has no use for the sums
    if by_covariance and not (x.requires_grad or torch.compiler.is_compiling() or transforming()):
        model = model.filling_forward_cache()
    if torch.compiler.is_compiling():
        return _with_nan_derivatives(TracedLogProb.apply(model, x, *model.arguments.given))
    result = LogProb.apply(model, *(savable(t) for t in (x, *model.arguments.given)))
    return result if is_concrete(result) else _with_nan_derivatives(result)


def _with_nan_derivatives(value: Tensor) -> Tensor:
    """The value, whose derivatives are NaN where it is: where nothing can be looked at, an invalid parameter must not have gradients
    that are numbers (the log-density of a negative variance is NaN, its closed-form gradient is not)."""
    return value * nan_where(value.detach().isnan(), value.dtype)


def _compiles_rules(*tensors: Tensor) -> bool:
    """Whether the recorder knows the rules of an autograd Function: torch.compile does, for a graph and outside of torch.func."""
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return graph and torch.compiler.is_compiling() and not (transforming() or torch.compiler.is_exporting())


def filling_forward_cache(model: Model, x: Tensor, rows: Residuals) -> Tensor:
    """The log-density; and, where that is little beside it, what the gradient of its sum or mean needs, from the same pass."""
    with model.arithmetic():
        both = GeneralEvaluation(model, rows, batch_shape(x, 1)).squares_and_sums()
        if both is None:
            return model.log_prob(rows)
        squares, sums = both
        model.forward_cache = Snapshot([x, *model.arguments.given]), sums
        return rows.log_prob_of(squares).to(model.dtype)


def _general_gradients(
    needed: tuple[bool, ...], weights: Tensor, x: Tensor, mean: Tensor, covariance: Tensor
) -> tuple[Tensor | None, ...]:
    """What `LogProb` gives backwards, of plain mean and Σ that have been looked at."""
    model = Model(parse("log_prob", mean, covariance, check=False))
    owns = param_batches(model, (x, mean, covariance))
    return tuple(combine(Score.apply(model, needed, owns, weights, x, mean, covariance), needed))


class TracedLogProb(Function):
    """(x, µ, θ…) → log p of each row; in the form that torch.compile traces, which knows no rule for tangents."""

    @staticmethod
    def forward(model: Model, x: Tensor, *given: Tensor) -> Tensor:
        model = model.at(given[0], given[1:])
        rows = model.rows(x)
        return filling_forward_cache(model, x, rows) if model.fills_forward_cache else model.log_prob(rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.model, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        needed, tensors = tuple(ctx.needs_input_grad[1:]), ctx.saved_tensors  # unpacked once: checkpoints allow no more
        sums = _score(ctx.model, needed, param_batches(ctx.model, tensors), weights, *tensors)
        return (None, *combine(sums, needed))


class LogProb(TracedLogProb):
    """(x, µ, θ…) → log p of each row, under every transform."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.model, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        needed, tensors = tuple(ctx.needs_input_grad[1:]), ctx.saved_tensors
        owns = param_batches(ctx.model, tensors)
        return (None, *combine(Score.apply(ctx.model, needed, owns, weights, *tensors), needed))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        moving = [t is not None for t in tangents]

        def along(*values: Tensor) -> tuple[Tensor, ...]:
            count = sum(moving)
            return (directional(ctx.model, values[count:], combine(values[:count], moving)),)

        return HigherOrderFunction.apply(along, *(t for t in tangents if t is not None), *ctx.saved_tensors)[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], model: Model, *tensors: Tensor) -> tuple[Tensor, int]:
        events = event_dimensions(model)
        rank = max(_rank(t, dim, event) for t, dim, event in zip(tensors, in_dims[1:], events, strict=True))
        aligned = [_aligned(t, dim, event, rank) for t, dim, event in zip(tensors, in_dims[1:], events, strict=True)]
        return LogProb.apply(model.unchecked().at(aligned[1], aligned[2:]), *aligned), 0


class Score(Function):
    """(w, x, µ, θ…) → Σ wₙ ∇ℓₙ by those of (x, µ, θ…) that are `needed`, each summed down to its batch in `owns`."""

    @staticmethod
    def forward(
        model: Model, needed: tuple[bool, ...], owns: tuple[Size, ...], weights: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        return _score(model, needed, owns, weights, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.model, ctx.needed, ctx.owns, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        model, moving, needed, count = ctx.model, ctx.needed, ctx.needs_input_grad[3:], len(cotangents)

        def pulled(*values: Tensor) -> tuple[Tensor, ...]:
            return gradient_of_phi(model, needed, combine(values[:count], moving), values[count:])

        return (None, None, None, *combine(HigherOrderFunction.apply(pulled, *cotangents, *ctx.saved_tensors), needed))

    @staticmethod
    def jvp(ctx: Any, _m: None, _n: None, _o: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        model, needed, owns = ctx.model, ctx.needed, ctx.owns
        moving = [t is not None for t in tangents]
        directions = partition(tangents, moving)

        def pushed(*values: Tensor) -> tuple[Tensor, ...]:
            (weights_tangent, *direction), (weights, *tensors) = (
                combine(values[: len(directions)], moving),
                values[len(directions) :],
            )
            sums = []
            if any(v is not None for v in direction):
                sums.append(gradient_of_phi(model, (False, *needed), direction, (weights, *repeated(model, tensors, owns))))
            if weights_tangent is not None:
                sums.append(_score(model, needed, owns, weights_tangent, *tensors))
            return sums[0] if len(sums) == 1 else tuple(a + b for a, b in zip(*sums, strict=True))

        return HigherOrderFunction.apply(pushed, *directions, *ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        model: Model,
        needed: tuple[bool, ...],
        owns: tuple[Size, ...],
        *tensors: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        events = (0, *event_dimensions(model))
        rank = max(_rank(t, dim, event) for t, dim, event in zip(tensors, in_dims[3:], events, strict=True))
        weights, *aligned = [_aligned(t, dim, event, rank) for t, dim, event in zip(tensors, in_dims[3:], events, strict=True)]
        wide = tuple(Size((info.batch_size, *(1,) * (rank - len(own)), *own)) for own in owns)
        sums = Score.apply(model.at(aligned[1], aligned[2:]), needed, wide, weights, *aligned)
        partition = [(own, event) for own, event, need in zip(owns, events[1:], needed, strict=True) if need]
        results = [
            total.reshape((info.batch_size, *own, *total.shape[total.ndim - event :]))
            for total, (own, event) in zip(sums, partition, strict=True)
        ]
        return tuple(results), (0,) * len(results)


def _score(
    model: Model, needed: tuple[bool, ...], owns: tuple[Size, ...], weights: Tensor, *tensors: Tensor
) -> tuple[Tensor, ...]:
    x, *given = tensors
    model = model.at(given[0], given[1:])
    rows = model.unchecked_rows(x)
    rows = rows.expand(broadcast(rows.batch, weights.shape))
    names = [name for name, need in zip(argument_names(model), needed, strict=True) if need]
    partition = [own for own, need in zip(owns, needed, strict=True) if need]
    common = _common(weights)
    each = weights.to(model.working) if common is None else None
    evaluation = GeneralEvaluation(model, rows, batch_shape(x, 1))
    if common is not None and model.forward_cache is not None and "x" not in names and model.forward_cache[0].matches(tensors):
        with model.arithmetic():
            sums = evaluation.totals_from(model.forward_cache[1], names)
    else:
        sums = evaluation.totals(names, each, partition)
    if common is not None and common != 1:
        sums = [total * common for total in sums]
    return tuple(total.to(model.dtype) for total in sums)


def _rank(t: Tensor, dim: int | None, event: int) -> int:
    """The number of leading dimensions that one sample has."""
    return t.ndim - event - (dim is not None)


def _aligned(t: Tensor, dim: int | None, event: int, rank: int) -> Tensor:
    """The mapped dimension in front, of as many leading dimensions that all of them broadcast as one sample's would."""
    if dim is None:
        return t
    t = t.movedim(dim, 0)
    return t.reshape((t.shape[0], *(1,) * (rank + 1 + event - t.ndim), *t.shape[1:]))


def _common(weights: Tensor) -> float | None:
    """The one weight that all rows have, where the numbers can be looked at without waiting for a device."""
    if not is_on_host(weights) or weights.numel() == 0 or is_traced(weights):
        return None
    first = weights.flatten()[0] if all(s == 0 for s in weights.stride()) else weights.amax()
    same = weights.stride() == (0,) * weights.ndim or bool((weights == first).all())
    return float(first) if same else None
