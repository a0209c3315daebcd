"""Covariances: structures and parametrisations, one file each, and all that a structure of your own is made of.

It may use `blocks`, `whitening` and what is below them. Interface: `structures()` and `dense_parameters()`, which find the classes in
`structured` and `parametrisations` by themselves (a new one is one new file), and the names below, which are public.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mvnjac.covariance.base import Covariance as Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation as DenseParametrisation

if TYPE_CHECKING:
    from mvnjac.blocks.base import Block as Block
    from mvnjac.blocks.base import Entrywise as Entrywise
    from mvnjac.blocks.outer import Outer as Outer
    from mvnjac.covariance.parametrisations.base import DenseCovariance as DenseCovariance
    from mvnjac.covariance.samples import BadInput as BadInput
    from mvnjac.covariance.samples import Maker as Maker
    from mvnjac.covariance.structured.diagonal import DiagonalFactor as DiagonalFactor
    from mvnjac.parameters import checks as checks
    from mvnjac.parameters.coordinates import Coordinates as Coordinates
    from mvnjac.parameters.coordinates import correlation as correlation
    from mvnjac.parameters.coordinates import lower_triangular as lower_triangular
    from mvnjac.parameters.coordinates import scalar as scalar
    from mvnjac.parameters.coordinates import symmetric as symmetric
    from mvnjac.parameters.coordinates import vector as vector
    from mvnjac.whitening.factor import DenseFactor as DenseFactor
    from mvnjac.whitening.factor import Factor as Factor
    from mvnjac.whitening.residuals import Residuals as Residuals

#: the names for structures of one's own, and where they come from; they are loaded when first used
_HOMES = {
    **dict.fromkeys(("Block", "Entrywise"), "blocks.base"),
    "Outer": "blocks.outer",
    "DenseCovariance": "covariance.parametrisations.base",
    **dict.fromkeys(("BadInput", "Maker"), "covariance.samples"),
    "DiagonalFactor": "covariance.structured.diagonal",
    **dict.fromkeys(
        ("Coordinates", "correlation", "lower_triangular", "scalar", "symmetric", "vector"), "parameters.coordinates"
    ),
    **dict.fromkeys(("DenseFactor", "Factor"), "whitening.factor"),
    "Residuals": "whitening.residuals",
}


def __getattr__(name: str) -> Any:
    if name == "checks":
        return importlib.import_module("mvnjac.parameters.checks")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mvnjac.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "Covariance", "DenseParametrisation", "checks", "dense_parameters", "structures"])


@functools.cache
def structures() -> dict[str, type[Covariance]]:
    """All covariance structures, by class name."""
    return {cls.__name__: cls for cls in _classes() if issubclass(cls, Covariance)}


@functools.cache
def dense_parameters() -> dict[str, type[DenseParametrisation]]:
    """The parameters that any covariance with a dense factor has derivatives by, each with the class that owns it."""
    return {name: cls for cls in _classes() if issubclass(cls, DenseParametrisation) for name in cls.fields}


def _classes() -> Iterator[type]:
    for folder in ("parametrisations", "structured"):
        package = importlib.import_module(f"{__name__}.{folder}")
        for module_info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{module_info.name}")
            for name, cls in inspect.getmembers(module, inspect.isclass):
                if cls.__module__ == module.__name__ and not name.startswith("_") and not inspect.isabstract(cls):
                    yield cls
