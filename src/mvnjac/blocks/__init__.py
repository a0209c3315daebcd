"""The derivative of n log-densities with respect to one parameter, stored as n·d numbers instead of n·p.

It may use `parameters`, `linalg`, `kernels` and `tensors`. Interface: `base.Block`, `base.Entrywise`, `outer.Outer`, `gram.Gram`.
"""

from __future__ import annotations

from typing import Any

from mvnjac.imports import moved


def __getattr__(name: str) -> Any:
    """Deprecated: `Entrywise` is imported from `mvnjac.covariance`."""
    if name != "Entrywise":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return moved(__name__, name, "mvnjac.blocks.base", "mvnjac.covariance")
