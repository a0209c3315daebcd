"""Where the kernels for a GPU serve, and the way to them. They are written in Triton, which is imported when one is called."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mvnjac.kernels import PLAIN
from mvnjac.kernels.reference import Form, Gaussians, Patterns

#: Triton's own setting: its kernels run on the CPU, step by step
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: "0" leaves everything to plain torch
_WANTED = os.environ.get("MVNJAC_TRITON", "1") != "0"
#: variables of a small Gaussian, which is held in registers
SMALL = 64


def available(*tensors: Tensor) -> bool:
    """Whether Triton's kernels can serve these tensors: numbers on a GPU, or under Triton's interpreter, and it works there."""
    there = all((t.is_cuda or (_INTERPRETED and t.is_cpu)) and type(t) in PLAIN for t in tensors)
    return there and _WANTED and _installed() and _refusal(tensors[0].device) is None


def why_not() -> str | None:
    """Why Triton's kernels serve no tensor; None where they serve some."""
    if not _installed():
        return "triton is not installed"
    if not _WANTED:
        return "switched off (MVNJAC_TRITON=0)"
    if _INTERPRETED:
        return _refusal(torch.device("cpu"))
    return _refusal(torch.device("cuda", torch.cuda.current_device())) if torch.cuda.is_available() else "torch sees no GPU"


def packed(
    left: Tensor,
    right: Tensor,
    offset: Tensor,
    out: Tensor,
    form: Form,
    diagonal: Tensor | None = None,
    patterns: Patterns | None = None,
) -> Tensor:
    """`reference.packed`, where the tensors are `available`; whatever one row has that all share is broadcast at no cost."""
    from mvnjac.kernels import triton_packed

    right = right.expand(left.shape)
    if offset.ndim == 2 and patterns is None:
        offset = offset.expand(out.shape)
    if diagonal is not None and diagonal.ndim == 2:
        diagonal = diagonal.expand(left.shape)
    with _current(out.device):
        return triton_packed.packed(left, right, offset, out, form, diagonal, patterns)


def small_gaussians(
    x: Tensor, mean: Tensor, covariance: Tensor, *, gradient: bool = True, symmetry: float | None = None
) -> Gaussians:
    """`reference.small_gaussians`, where the tensors are `available` and d is `SMALL` at most."""
    from mvnjac.kernels import triton_batched

    with _current(x.device):
        return triton_batched.small_gaussians(x, mean, covariance, gradient=gradient, symmetry=symmetry)


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _refusal(device: torch.device) -> str | None:
    """Why Triton does not work on a device, found out by trying once: no C compiler for its launchers, a card too old, …"""
    from mvnjac.kernels import triton_probe

    try:
        with _current(device), _disable_current_modes():
            triton_probe.run(device)
    except triton_probe.FAILURES as error:  # plain torch serves, and `why_not` says it
        return f"Triton does not work on {device}: {type(error).__name__}: {error}".splitlines()[0]
    return None


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
