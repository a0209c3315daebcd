"""Memory addresses of tensors, checked before they are passed to a compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from mvnjac.errors import InternalError
from mvnjac.kernels import PLAIN


def address(t: Tensor, dtype: torch.dtype | None = None) -> int:
    """The address of the first element of a tensor in CPU memory.

    dtype: also require contiguous elements of this dtype, for kernels that take neither a dtype nor strides.

    Raises:
        InternalError: if the tensor is not a plain tensor in CPU memory, since a kernel would access invalid memory.
    """
    if not t.is_cpu or type(t) not in PLAIN:
        raise InternalError(_message(t, "plain tensors in CPU memory"))
    if dtype is not None and (t.dtype is not dtype or not t.is_contiguous()):
        raise InternalError(_message(t, f"contiguous numbers of {dtype}"))
    try:
        return t.data_ptr()
    except RuntimeError:  # a wrapper of torch.func or of tracing has no storage
        raise InternalError(_message(t, "plain tensors in CPU memory")) from None


def address_or_zero(t: Tensor | None, dtype: torch.dtype | None = None) -> int:
    """The address, or 0 for None: the kernel's null pointer of an optional array."""
    return 0 if t is None else address(t, dtype)


def _message(t: Tensor, expected: str) -> str:
    strides = f" and strides {t.stride()}" if t.layout is torch.strided else ""
    return (
        f"a compiled kernel was called with a {type(t).__name__} of {t.dtype} on {t.device}, of shape "
        f"{tuple(t.shape)}{strides}; it expects {expected}. This is a bug in mvnjac, not in its arguments: please report it "
        "with this message. With MVNJAC_KERNELS=0 in the environment no compiled kernel is used."
    )
