"""What the compiler of the installed torch can trace at all, found out on code that has nothing of this library.

Where it cannot, a test asks for the compiler's own error: no wrong number, and no skipped test.
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
    """torch up to 2.11 traces none, of any function."""
    return _traces(lambda u, v: hessian(lambda a, b: (a * b).sum(), argnums=(0, 1))(u, v)[0][0])


@functools.cache
def copies_of_objects() -> bool:
    """torch up to 2.11 does not trace `copy.copy`, which a distribution's model is made by."""
    return _traces(lambda u, v: copy.copy(_Held(u * v)).value)


def refused_unless(possible: bool) -> contextlib.AbstractContextManager[Any]:
    """The compiler's error is expected, unless it can trace this."""
    return contextlib.nullcontext() if possible else pytest.raises((torch._dynamo.exc.TorchDynamoException, RuntimeError))
