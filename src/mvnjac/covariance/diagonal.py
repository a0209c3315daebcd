"""Deprecated: `DiagonalFactor` is imported from `mvnjac.covariance`. This module will be removed after one release."""

from __future__ import annotations

from typing import Any

from mvnjac.imports import moved


def __getattr__(name: str) -> Any:
    return moved(__name__, name, "mvnjac.covariance.structured.diagonal", "mvnjac.covariance")
