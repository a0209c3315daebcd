"""Deprecated: the coordinates of parameters are imported from `mvnjac.covariance`. This package will be removed after one release."""

from __future__ import annotations

from typing import Any

from mvnjac.imports import moved


def __getattr__(name: str) -> Any:
    return moved(__name__, name, "mvnjac.parameters.coordinates", "mvnjac.covariance")
