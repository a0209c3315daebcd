"""Calls of the GPU kernels, and whether they are available. They are written in Triton, which is imported at the first call."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mvnjac.kernels import PLAIN
from mvnjac.kernels.reference import Gaussians, PackedProduct

#: Triton's setting for its interpreter, which runs kernels on the CPU
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: "0" disables the Triton kernels
_ENABLED = os.environ.get("MVNJAC_TRITON", "1") != "0"
#: the largest number of variables of `small_gaussians`, whose matrices are held in registers
SMALL = 64


def available(*tensors: Tensor) -> bool:
    """Whether the Triton kernels work for these tensors: on a GPU, or on the CPU under Triton's interpreter."""
    supported = all((t.is_cuda or (_INTERPRETED and t.is_cpu)) and type(t) in PLAIN for t in tensors)
    return supported and _ENABLED and _installed() and _refusal(tensors[0].device) is None


def why_not() -> str | None:
    """The reason why the Triton kernels are not available; None if they are."""
    if not _installed():
        return "triton is not installed"
    if not _ENABLED:
        return "switched off (MVNJAC_TRITON=0)"
    if _INTERPRETED:
        return _refusal(torch.device("cpu"))
    return _refusal(torch.device("cuda", torch.cuda.current_device())) if torch.cuda.is_available() else "torch sees no GPU"


def packed(operands: PackedProduct) -> bool:
    """`reference.packed`; False if the tensors are not `available`. Operands shared by all rows are not copied."""
    left, right, offset, diagonal, out = operands.left, operands.right, operands.offset, operands.diagonal, operands.out
    if not available(out, left):
        return False
    from mvnjac.kernels import triton_packed

    if offset.ndim == 2 and operands.patterns is None:
        offset = offset.expand(out.shape)
    if diagonal is not None and diagonal.ndim == 2:
        diagonal = diagonal.expand(left.shape)
    with _current(out.device):
        triton_packed.packed(replace(operands, right=right.expand(left.shape), offset=offset, diagonal=diagonal))
    return True


def small_gaussians(
    x: Tensor, mean: Tensor, covariance: Tensor, *, gradient: bool = True, symmetry: float | None = None
) -> Gaussians:
    """`reference.small_gaussians`, for tensors that are `available` and d ≤ `SMALL`."""
    from mvnjac.kernels import triton_batched

    with _current(x.device):
        return triton_batched.small_gaussians(x, mean, covariance, gradient=gradient, symmetry=symmetry)


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _refusal(device: torch.device) -> str | None:
    """Why Triton does not work on a device (no C compiler, an unsupported GPU, …), determined by launching a kernel once."""
    from mvnjac.kernels import triton_packed

    try:
        with _current(device), _disable_current_modes():
            triton_packed.probe(device)
    except triton_packed.FAILURES as error:  # plain torch is used instead, and `why_not` reports the reason
        return f"Triton does not work on {device}: {type(error).__name__}: {error}".splitlines()[0]
    return None


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes this device the current one, on which Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
