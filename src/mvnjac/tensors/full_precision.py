"""Full precision of the given dtype: autocast and TF32 are disabled while results are computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """A context in which float32 matrix products are computed in float32.

    Autocast would compute them in bfloat16, and TF32 or oneDNN's bfloat16 mode would drop 13 to 16 of the 24 bits. Neither
    affects float64, so that the context does nothing for it.
    """
    if dtype is torch.float64 or torch.compiler.is_compiling():
        yield
        return
    with contextlib.ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        # These settings are global to the process, so they are changed only if they differ from full precision.
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
            for backend in (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul):  # type: ignore[attr-defined]
                if backend.fp32_precision not in ("ieee", "none"):
                    stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
                    backend.fp32_precision = "ieee"
        elif torch.get_float32_matmul_precision() != "highest":  # torch before 2.9
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield
