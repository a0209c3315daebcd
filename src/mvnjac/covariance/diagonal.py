"""Deprecated: `DiagonalFactor` is imported from `mvnjac.covariance`. This module will be removed after one release."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    value = getattr(importlib.import_module("mvnjac.covariance.structured.diagonal"), name)
    message = f"mvnjac.covariance.diagonal.{name} is deprecated; import {name} from mvnjac.covariance."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return value
