"""The precision of arithmetic: as given, whatever the surroundings, without autocast and TF32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def full_precision(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """A context in which float32 products are float32 products.

    Autocast would run them in bfloat16, and TF32 or oneDNN's bfloat16 mode would drop 13 to 16 of the 24 bits.
    float64 is never touched by either, and pays nothing here.
    """
    if dtype is torch.float64 or torch.compiler.is_compiling():
        yield
        return
    with contextlib.ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        # The settings are global to the process: touched only where they differ from full precision.
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            for backend in (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul):  # type: ignore[attr-defined]
                stack.enter_context(_ieee(backend))
        elif torch.get_float32_matmul_precision() != "highest":  # torch before 2.9
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


@contextlib.contextmanager
def _ieee(backend: Any) -> Iterator[None]:
    before = backend.fp32_precision
    if before in ("ieee", "none"):
        yield
        return
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before
