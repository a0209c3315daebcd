"""Where the numbers of a tensor lie: the one way by which an address reaches a compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.errors import InternalError
from mvnjac.kernels import PLAIN


def address(t: Tensor, dtype: torch.dtype | None = None) -> int:
    """The address of the first number of a tensor in CPU memory.

    A kernel would read or write whatever lies at an address of another kind: such a tensor is refused.

    dtype: the kernel is told neither this dtype nor a stride: the numbers must be contiguous, and of this dtype.
    """
    if not t.is_cpu or type(t) not in PLAIN:
        raise InternalError(_says(t, "plain tensors in CPU memory"))
    if dtype is not None and (t.dtype is not dtype or not t.is_contiguous()):
        raise InternalError(_says(t, f"contiguous numbers of {dtype}"))
    try:
        return t.data_ptr()
    except RuntimeError:  # a wrapper of torch.func or of tracing, which has none
        raise InternalError(_says(t, "plain tensors in CPU memory")) from None


def address_or_zero(t: Tensor | None, dtype: torch.dtype | None = None) -> int:
    """The address, or 0, by which a kernel knows that there is no such array."""
    return 0 if t is None else address(t, dtype)


def _says(t: Tensor, expected: str) -> str:
    strides = f" and strides {t.stride()}" if t.layout is torch.strided else ""
    return (
        f"a compiled kernel was about to be given the address of a {type(t).__name__} of {t.dtype} on {t.device}, of shape "
        f"{tuple(t.shape)}{strides}; it takes {expected}. This is a fault of mvnjac and not of its arguments: please report it "
        "with this message. With MVNJAC_KERNELS=0 in the environment no compiled kernel is used."
    )
