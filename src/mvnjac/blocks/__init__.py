"""The derivative of n log-densities with respect to one parameter, stored as n·d numbers instead of n·p.

It may use `parameters`, `linalg`, `kernels` and `tensors`. Interface: `base.Block`, `base.Entrywise`, `outer.Outer`, `gram.Gram`.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Deprecated: `Entrywise` is imported from `mvnjac.covariance`."""
    if name != "Entrywise":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = "mvnjac.blocks.Entrywise is deprecated; import Entrywise from mvnjac.covariance."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return importlib.import_module("mvnjac.blocks.base").Entrywise
