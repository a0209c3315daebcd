"""What scores are for: estimation by maximum likelihood, and what is known of the estimates.

The public names are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvnjac.inference.delta import delta_method as delta_method
    from mvnjac.inference.estimates import Estimates as Estimates
    from mvnjac.inference.estimates import covariance_of_estimates as covariance_of_estimates
    from mvnjac.inference.structural_change import BreakTest as BreakTest
    from mvnjac.inference.structural_change import ScoreProcess as ScoreProcess
    from mvnjac.inference.structural_change import score_process as score_process

_HOMES = {
    "covariance_of_estimates": "estimates",
    "Estimates": "estimates",
    "delta_method": "delta",
    "score_process": "structural_change",
    "ScoreProcess": "structural_change",
    "BreakTest": "structural_change",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mvnjac.inference' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mvnjac.inference.{_HOMES[name]}"), name)
    globals()[name] = value  # the next access is a plain one
    return value


def __dir__() -> list[str]:
    return sorted(_HOMES)
