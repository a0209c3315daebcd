"""Memory for large results: in huge pages where that is switched on."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from mvnjac import kernels
from mvnjac.kernels.addresses import address
from mvnjac.tensors.allocation import guarded


@guarded("matrix", "go through the rows by J[a:b] with out=.")
def fresh(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialised memory for a result; in huge pages where that is switched on and the system has them."""
    result = torch.empty(shape, dtype=dtype, device=device)
    size = result.numel() * dtype.itemsize
    if _huge_pages and size >= HUGE and device.type == "cpu" and kernels.native is not None:
        kernels.native.advise_huge(address(result), size)
    return result


#: results of fewer bytes are left in ordinary pages
HUGE = 32 * 2**20

_huge_pages = os.environ.get("MVNJAC_HUGE_PAGES") == "1"


def use_huge_pages(on: bool) -> None:
    """Whether large results (32 MiB and more) of `Jacobian.matrix` ask the system for huge pages; off by default (Linux, CPU).

    First touching fresh memory is what a large matrix waits for. Huge pages make that three times faster on some machines and
    ten times slower on others (a virtual machine whose host has not backed them), so measure: fill a fresh large array with and
    without. Memory of your own, `out=`, is better than either. MVNJAC_HUGE_PAGES=1 in the environment does the same.

    Example:
        >>> import mvnjac
        >>> mvnjac.use_huge_pages(True)
        >>> mvnjac.use_huge_pages(False)
    """
    global _huge_pages
    _huge_pages = on


def huge_pages() -> bool:
    """Whether they are asked for."""
    return _huge_pages
