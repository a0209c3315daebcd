"""The few hot loops, compiled; each beside its reference in plain torch, which serves where they cannot.

`native` is the module of compiled kernels, or None: it was not built, or MVNJAC_KERNELS=0 is set. They work on addresses of
contiguous CPU memory; whoever calls them has made sure that nothing watches (no graph, no transform, no compiler).
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

import torch

try:
    _built: Any = importlib.import_module("mvnjac.kernels._native")
except ImportError:
    _built = None
native: Any = _built if os.environ.get("MVNJAC_KERNELS") != "0" else None

#: dtypes that there are kernels for, with the size of a number
ITEMSIZE = {torch.float64: 8, torch.float32: 4}
#: tensors that are numbers in memory: what inherits from them may be anything
PLAIN = (torch.Tensor, torch.nn.Parameter)
#: which sums the kernel gives: of whitened rows, completed to totals by the mean and Σ, of centred rows
WHITENED, COMPLETED, CENTRED = range(3)


def why_not() -> str | None:
    """Why there are no compiled kernels; None where there are."""
    if native is not None:
        return None
    return "not built (no C++ compiler when the package was installed)" if _built is None else "switched off (MVNJAC_KERNELS=0)"


@contextlib.contextmanager
def switched(on: bool, instructions: str | None = None) -> Iterator[None]:
    """A context with or without the kernels, for tests and measurements; `instructions`: "plain", "avx2" or "avx512"."""
    global native
    before, used = native, _built.instructions() if _built is not None else None
    native = _built if on else None
    try:
        if instructions is not None:
            _built.use_instructions(instructions)
        yield
    finally:
        native = before
        if instructions is not None:
            _built.use_instructions(used)
