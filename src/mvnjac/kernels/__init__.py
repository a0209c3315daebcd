"""The few hot loops, compiled; each beside its reference in plain torch, which serves where they cannot.

`native` is the module of compiled kernels, or None: it was not built, or MVNJAC_KERNELS=0 is set. They work on addresses of
contiguous CPU memory; whoever calls them has made sure that nothing watches (no graph, no transform, no compiler).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

try:
    from mvnjac.kernels import _native
except ImportError:
    _native = None

_built: Any = _native
native: Any = _built if os.environ.get("MVNJAC_KERNELS") != "0" else None

#: dtypes that there are kernels for, with the size of a number
ITEMSIZE = {torch.float64: 8, torch.float32: 4}


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


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can work on these: contiguous numbers of one dtype in CPU memory."""
    dtype = tensors[0].dtype
    return (
        native is not None
        and dtype in ITEMSIZE
        and all(
            t.is_cpu and t.dtype == dtype and t.layout is torch.strided and t.is_contiguous() and not t.is_neg()
            for t in tensors
        )
    )
