"""Functions whose derivatives of every order are functions of the same class, under every transform.

Plain operations inside a rule of an `autograd.Function` are not visible to all transforms around it: in torch 2.13 a `jvp` rule
silently loses the tangents of an outer forward mode. Calls of a Function are visible. A rule therefore contains no plain
operations but calls another Function; the one in this module is for results without a closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

T = TypeVar("T")
#: tensors → a tuple of tensors, by differentiable torch operations; the function must not close over a tensor
PlainFunction = Callable[..., tuple[Tensor, ...]]


class HigherOrderFunction(Function):
    """A plain function, whose derivatives are functions of this class: by reverse mode, which tangents require twice."""

    @staticmethod
    def forward(f: PlainFunction, *tensors: Tensor) -> tuple[Tensor, ...]:
        return f(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.f, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        f, count, needed = ctx.f, len(cotangents), ctx.needs_input_grad[1:]

        def pulled(*values: Tensor) -> tuple[Tensor, ...]:
            inputs = values[count:]
            pull = _vjp(_with_constants(f, inputs, needed), *partition(inputs, needed))[1]
            return pull(values[:count])

        return (None, *combine(HigherOrderFunction.apply(pulled, *cotangents, *ctx.saved_tensors), needed))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        f, moving = ctx.f, [t is not None for t in tangents]
        directions = [t for t in tangents if t is not None]
        count = len(directions)

        def pushed(*values: Tensor) -> tuple[Tensor, ...]:
            inputs = values[count:]
            outputs, pull = _vjp(_with_constants(f, inputs, moving), *partition(inputs, moving))
            pull_again = _vjp(lambda *c: pull(c), *(torch.zeros_like(o) for o in outputs))[1]
            return pull_again(values[:count])

        return HigherOrderFunction.apply(pushed, *directions, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], f: PlainFunction, *tensors: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        outputs = HigherOrderFunction.apply(torch.func.vmap(f, in_dims[1:]), *tensors)
        return outputs, (0,) * len(outputs)


def partition(values: Sequence[T | None], which: Sequence[bool]) -> list[T]:
    """The values that are selected by `which` and are not None."""
    return [value for value, selected in zip(values, which, strict=True) if selected and value is not None]


def combine(values: Sequence[Tensor], which: Sequence[bool]) -> list[Tensor | None]:
    """The inverse of `partition`: the values in the places that are selected, None in the others."""
    remaining = iter(values)
    return [next(remaining) if selected else None for selected in which]


def _vjp(f: PlainFunction, *values: Tensor) -> tuple[Any, Any]:
    """torch.func.vjp without an auxiliary output."""
    result: Any = torch.func.vjp(f, *values)
    return result


def _with_constants(f: PlainFunction, values: Sequence[Tensor], which: Sequence[bool]) -> PlainFunction:
    """f as a function of the arguments that are selected by `which`; the others are constant."""

    def partial(*variables: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(variables)
        return f(*(next(remaining) if selected else value for value, selected in zip(values, which, strict=True)))

    return partial
