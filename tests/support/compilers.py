"""Limits of the compiler of the installed torch, determined with code that does not use this library.

Where the compiler cannot trace a function, a test expects its error, instead of being skipped.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import hessian


class _Held:
    def __init__(self, value: Tensor) -> None:
        self.value = value


def _traces(function: Callable[..., Tensor]) -> bool:
    torch._dynamo.reset()
    one = torch.ones(1, dtype=torch.float64)
    try:
        torch.compile(function, fullgraph=True, backend="aot_eager")(one, one)
    except (torch._dynamo.exc.Unsupported, RuntimeError):
        return False
    return True


@functools.cache
def hessians_by_several_arguments() -> bool:
    """torch up to 2.11 cannot trace a Hessian with respect to several arguments."""
    return _traces(lambda u, v: hessian(lambda a, b: (a * b).sum(), argnums=(0, 1))(u, v)[0][0])


@functools.cache
def copies_of_objects() -> bool:
    """torch up to 2.11 cannot trace `copy.copy`, which creates the model of a distribution."""
    return _traces(lambda u, v: copy.copy(_Held(u * v)).value)


def refused_unless(possible: bool) -> contextlib.AbstractContextManager[Any]:
    """Expect an error of the compiler, unless it can trace the code."""
    return contextlib.nullcontext() if possible else pytest.raises((torch._dynamo.exc.TorchDynamoException, RuntimeError))
