"""The autograd Functions of the log-density.

All derivatives follow from two functions: the total score S = Σ wₙ ∇ℓₙ (`GeneralEvaluation.totals`) and the directional
derivative Dₙ(v) of each row (`directional`). The reverse-mode derivative of `LogProb` is `Score`, its forward-mode derivative
is D. `Score` is differentiated through the scalar

    φ(w, x, µ, θ; v) = Σ wₙ Dₙ(v)         ∂φ/∂w = D(v),    ∂φ/∂(x, µ, θ) = H v  with H symmetric

Its gradients, by plain reverse mode, are the cotangents of `Score` if v is a cotangent, and its tangents if v is a tangent.
`vmap` passes a batch on as the larger batch that it represents, so that a shared factor stays shared. Each rule starts from
the arguments and calls another Function (`autodiff/higher_order.py` explains why). Saved for the backward pass are the
arguments, the factor and, for many rows, the sums of whitened residuals (d² numbers) or the totals of a factor model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Size, Tensor
from torch.autograd import Function

from mvnjac.autodiff.directional import argument_names, directional, event_dimensions, gradient_of_phi, param_batches, repeated
from mvnjac.autodiff.higher_order import HigherOrderFunction, combine, partition
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.score.evaluation import GeneralEvaluation
from mvnjac.tensors.broadcasting import batch_shape, broadcast
from mvnjac.tensors.tracing import is_on_host, is_traced
from mvnjac.whitening.cache import Snapshot
from mvnjac.whitening.residuals import Residuals

# one entry for each of x, µ, θ…
Needed = tuple[bool, ...]  # whether it needs a gradient
Batches = tuple[Size, ...]  # the leading dimensions of its gradient
Gradients = tuple[Tensor | None, ...]


class TracedLogProb(Function):
    """(x, µ, θ…) → log p of each row, in the form that torch.compile supports: without a rule for tangents."""

    @staticmethod
    def forward(model: Model, x: Tensor, *parameters: Tensor) -> Tensor:
        model = model.at(parameters[0], parameters[1:])
        rows = model.rows(x)
        return _log_prob_filling_cache(model, x, rows) if model.fills_forward_cache else model.log_prob(rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.model, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> Gradients:
        needed, tensors = tuple(ctx.needs_input_grad[1:]), ctx.saved_tensors  # checkpointing permits only one access
        sums = _score(ctx.model, needed, param_batches(ctx.model, tensors), weights, *tensors)
        return (None, *combine(sums, needed))


class LogProb(TracedLogProb):
    """(x, µ, θ…) → log p of each row, under every transform."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        TracedLogProb.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> Gradients:
        return (None, *score_of(ctx.model, tuple(ctx.needs_input_grad[1:]), weights, ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        moving = [t is not None for t in tangents]
        directions = partition(tangents, moving)

        def pushed(*values: Tensor) -> tuple[Tensor, ...]:
            direction, tensors = combine(values[: len(directions)], moving), values[len(directions) :]
            return (directional(ctx.model, tensors, direction),)

        return HigherOrderFunction.apply(pushed, *directions, *ctx.saved_tensors)[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], model: Model, *tensors: Tensor) -> tuple[Tensor, int]:
        aligned, _ = _align(tensors, in_dims[1:], event_dimensions(model))
        return LogProb.apply(model.unchecked().at(aligned[1], aligned[2:]), *aligned), 0


class Score(Function):
    """(w, x, µ, θ…) → Σ wₙ ∇ℓₙ with respect to the `needed` ones of (x, µ, θ…), each summed to its batch in `batches`."""

    @staticmethod
    def forward(model: Model, needed: Needed, batches: Batches, weights: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _score(model, needed, batches, weights, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.model, ctx.needed, ctx.batches, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Gradients:
        model, moving, needed, count = ctx.model, ctx.needed, ctx.needs_input_grad[3:], len(cotangents)

        def pulled(*values: Tensor) -> tuple[Tensor, ...]:
            return gradient_of_phi(model, needed, combine(values[:count], moving), values[count:])

        return (None, None, None, *combine(HigherOrderFunction.apply(pulled, *cotangents, *ctx.saved_tensors), needed))

    @staticmethod
    def jvp(ctx: Any, _model: None, _needed: None, _batches: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        model, needed, batches = ctx.model, ctx.needed, ctx.batches
        moving = [t is not None for t in tangents]
        directions = partition(tangents, moving)

        def pushed(*values: Tensor) -> tuple[Tensor, ...]:
            weights_tangent, *direction = combine(values[: len(directions)], moving)
            weights, *tensors = values[len(directions) :]
            sums = []
            if any(v is not None for v in direction):
                arguments = (weights, *repeated(model, tensors, batches))
                sums.append(gradient_of_phi(model, (False, *needed), direction, arguments))
            if weights_tangent is not None:
                sums.append(_score(model, needed, batches, weights_tangent, *tensors))
            return sums[0] if len(sums) == 1 else tuple(a + b for a, b in zip(*sums, strict=True))

        return HigherOrderFunction.apply(pushed, *directions, *ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], model: Model, needed: Needed, batches: Batches, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        events = event_dimensions(model)
        (weights, *aligned), rank = _align(tensors, in_dims[3:], [0, *events])
        mapped = tuple(Size((info.batch_size, *(1,) * (rank - len(batch)), *batch)) for batch in batches)
        sums = Score.apply(model.at(aligned[1], aligned[2:]), needed, mapped, weights, *aligned)
        results = tuple(
            total.reshape((info.batch_size, *batch, *total.shape[total.ndim - event :]))
            for total, batch, event in zip(sums, partition(batches, needed), partition(events, needed), strict=True)
        )
        return results, (0,) * len(results)


def score_of(model: Model, needed: Needed, weights: Tensor, tensors: Sequence[Tensor]) -> Gradients:
    """The total score with respect to the `needed` ones of x, µ, θ…, each in its own batch; None for the others."""
    return tuple(combine(Score.apply(model, needed, param_batches(model, tensors), weights, *tensors), needed))


def general_gradients(needed: Needed, weights: Tensor, x: Tensor, mean: Tensor, covariance: Tensor) -> Gradients:
    """The gradients of `LogProb` for validated tensors, for `fused.training_step`."""
    return score_of(Model(parse("log_prob", mean, covariance, check=False)), needed, weights, (x, mean, covariance))


def _log_prob_filling_cache(model: Model, x: Tensor, rows: Residuals) -> Tensor:
    """The log-density; the sums for the gradient of its sum or mean are cached if the same pass can compute them cheaply."""
    with model.arithmetic():
        squares_and_sums = GeneralEvaluation(model, rows, batch_shape(x, 1)).squares_and_sums()
        if squares_and_sums is None:
            return model.log_prob(rows)
        squares, sums = squares_and_sums
        model.forward_cache = Snapshot([x, *model.arguments.given]), sums
        return rows.log_prob_of(squares).to(model.dtype)


def _score(model: Model, needed: Needed, batches: Batches, weights: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    x, *parameters = tensors
    model = model.at(parameters[0], parameters[1:])
    rows = model.unchecked_rows(x)
    rows = rows.expand(broadcast(rows.batch, weights.shape))
    names = partition(argument_names(model), needed)
    common = _common_weight(weights)
    evaluation = GeneralEvaluation(model, rows, batch_shape(x, 1))
    if common is not None and model.forward_cache is not None and "x" not in names and model.forward_cache[0].matches(tensors):
        with model.arithmetic():
            sums = evaluation.totals_from(model.forward_cache[1], names)
    else:
        row_weights = weights.to(model.working) if common is None else None
        sums = evaluation.totals(names, row_weights, partition(batches, needed))
    if common is not None and common != 1:
        sums = [total * common for total in sums]
    return tuple(total.to(model.dtype) for total in sums)


def _align(tensors: Sequence[Tensor], in_dims: Sequence[int | None], events: Sequence[int]) -> tuple[list[Tensor], int]:
    """The tensors with mapped dimensions in front, so that they broadcast like one sample; and the batch rank of a sample."""
    mapped = list(zip(tensors, in_dims, events, strict=True))
    rank = max(t.ndim - event - (dim is not None) for t, dim, event in mapped)
    aligned = []
    for t, dim, event in mapped:
        if dim is not None:
            t = t.movedim(dim, 0)
            t = t.reshape((t.shape[0], *(1,) * (rank + 1 + event - t.ndim), *t.shape[1:]))
        aligned.append(t)
    return aligned, rank


def _common_weight(weights: Tensor) -> float | None:
    """The weight that all rows share; None if weights differ, or if reading them requires a device synchronisation."""
    if not is_on_host(weights) or weights.numel() == 0 or is_traced(weights):
        return None
    first = weights.flatten()[0] if all(s == 0 for s in weights.stride()) else weights.amax()
    equal = weights.stride() == (0,) * weights.ndim or bool((weights == first).all())
    return float(first) if equal else None
