"""Linear operators as scipy objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError

Product = Callable[[Tensor], Tensor]


def linear_operator(shape: tuple[int, int], matvec: Product, rmatvec: Product, dtype: torch.dtype, device: torch.device) -> Any:
    """A `scipy.sparse.linalg.LinearOperator` with these products; vectors are converted from and to numpy."""
    try:
        from scipy.sparse.linalg import LinearOperator
    except ImportError:
        raise ArgumentError("linear_operator: scipy is not installed; pip install 'mvnjac[scipy]'.") from None

    def wrapped(product: Product) -> Callable[[Any], Any]:
        def apply(v: Any) -> Any:
            with torch.no_grad():
                return product(torch.as_tensor(v.ravel(), dtype=dtype, device=device)).cpu().numpy()

        return apply

    name = "float64" if dtype == torch.float64 else "float32"
    return LinearOperator(shape, matvec=wrapped(matvec), rmatvec=wrapped(rmatvec), dtype=name)
