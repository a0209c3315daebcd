"""Allocation of large results, optionally in huge pages."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from mvnjac import kernels
from mvnjac.kernels.addresses import address
from mvnjac.tensors.allocation import guarded


@guarded("matrix", "go through the rows by J[a:b] with out=.")
def fresh(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised array for a result, in huge pages if these are enabled and supported by the system."""
    result = torch.empty(shape, dtype=dtype, device=device)
    size = result.numel() * dtype.itemsize
    if _huge_pages and size >= HUGE and device.type == "cpu" and kernels.native is not None:
        kernels.native.advise_huge(address(result), size)
    return result


#: results of fewer bytes use ordinary pages
HUGE = 32 * 2**20

_huge_pages = os.environ.get("MVNJAC_HUGE_PAGES") == "1"


def use_huge_pages(on: bool) -> None:
    """Enable or disable huge pages for large results (32 MiB and more) of `Jacobian.matrix` (Linux, CPU); disabled by default.

    The first write to newly allocated memory dominates the time of a large matrix. Huge pages make it three times faster on
    some machines and ten times slower on others (a virtual machine whose host does not back them), so measure both on your
    machine. Reusing memory with `out=` is faster than either. MVNJAC_HUGE_PAGES=1 in the environment has the same effect.

    Args:
        on: whether to request huge pages.

    Example:
        >>> import mvnjac
        >>> mvnjac.use_huge_pages(True)
        >>> mvnjac.use_huge_pages(False)
    """
    global _huge_pages
    _huge_pages = on


def huge_pages() -> bool:
    """Whether huge pages are enabled."""
    return _huge_pages
