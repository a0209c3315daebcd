"""Functions whose derivatives of every order are functions of the same kind, under every transform.

Inside a rule of an `autograd.Function` plain operations are not seen by every transform around it: in torch 2.13 the tangents of
an outer forward mode are lost in a `jvp`, silently. What is called through a Function is seen. So a rule never computes: it hands
what is to be computed to another Function, and this one serves where there is no closed form of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

T = TypeVar("T")
#: tensors → a tuple of tensors, by plain differentiable operations; it must not close over a tensor
Plain = Callable[..., tuple[Tensor, ...]]


class HigherOrderFunction(Function):
    """A plain function, its derivatives taken by reverse mode (twice, where tangents are wanted) inside another of its kind."""

    @staticmethod
    def forward(f: Plain, *tensors: Tensor) -> tuple[Tensor, ...]:
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
            rest = values[count:]
            pull = _vjp(_of(f, rest, needed), *partition(rest, needed))[1]
            return pull(values[:count])

        return (None, *combine(HigherOrderFunction.apply(pulled, *cotangents, *ctx.saved_tensors), needed))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        f, moving = ctx.f, [t is not None for t in tangents]
        directions = [t for t in tangents if t is not None]
        count = len(directions)

        def pushed(*values: Tensor) -> tuple[Tensor, ...]:
            rest = values[count:]
            outputs, pull = _vjp(_of(f, rest, moving), *partition(rest, moving))
            pull_again = _vjp(lambda *c: pull(c), *(torch.zeros_like(o) for o in outputs))[1]
            return pull_again(values[:count])

        return HigherOrderFunction.apply(pushed, *directions, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], f: Plain, *tensors: Tensor) -> tuple[tuple[Tensor, ...], Any]:
        outputs = HigherOrderFunction.apply(torch.func.vmap(f, in_dims[1:]), *tensors)
        return outputs, (0,) * len(outputs)


def partition(values: Sequence[T | None], which: Sequence[bool]) -> list[T]:
    """Those of the values that are meant."""
    return [value for value, this in zip(values, which, strict=True) if this and value is not None]


def combine(values: Sequence[Tensor], which: Sequence[bool]) -> list[Tensor | None]:
    """One entry an argument: the values in their places, None in the others."""
    remaining = iter(values)
    return [next(remaining) if this else None for this in which]


def _vjp(f: Plain, *values: Tensor) -> tuple[Any, Any]:
    """torch.func.vjp without an auxiliary output."""
    result: Any = torch.func.vjp(f, *values)
    return result


def _of(f: Plain, values: Sequence[Tensor], which: Sequence[bool]) -> Plain:
    """f as a function of some of its arguments, the others fixed."""

    def partial(*some: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(some)
        return f(*(next(remaining) if this else value for value, this in zip(values, which, strict=True)))

    return partial
