"""Covariance matrices: structures and parametrisations, one file each, and the public names for custom structures.

This package may use `blocks`, `whitening` and the packages below them. Its interface for other packages is `structures()` and
`dense_parameters()`, which find the classes in `structured` and `parametrisations` automatically (a new one is one new file),
the public names below, and the modules `base`, `parametrisation`, `estimation` and `maps`.
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
from mvnjac.imports import LazyNames

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

#: the public names for custom structures and the modules that define them, which are imported on first use
_LAZY = LazyNames(
    __name__,
    {
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
    },
)


def __getattr__(name: str) -> Any:
    if name == "checks":
        return importlib.import_module("mvnjac.parameters.checks")
    return _LAZY.load(name)


def __dir__() -> list[str]:
    return _LAZY.names("Covariance", "DenseParametrisation", "checks", "dense_parameters", "structures")


@functools.cache
def structures() -> dict[str, type[Covariance]]:
    """All covariance structures.

    Returns:
        The classes by name.

    Example:
        >>> from mvnjac.covariance import structures
        >>> structures()["Diagonal"]
        <class 'mvnjac.covariance.structured.diagonal.Diagonal'>
    """
    return {cls.__name__: cls for cls in _classes() if issubclass(cls, Covariance)}


@functools.cache
def dense_parameters() -> dict[str, type[DenseParametrisation]]:
    """The parameters of all dense parametrisations: derivatives with respect to them are available for any covariance.

    Returns:
        Parameter name → the parametrisation that it belongs to.

    Example:
        >>> from mvnjac.covariance import dense_parameters
        >>> dense_parameters()["scale_tril"]
        <class 'mvnjac.covariance.parametrisations.cholesky.Cholesky'>
    """
    return {name: cls for cls in _classes() if issubclass(cls, DenseParametrisation) for name in cls.fields}


def _classes() -> Iterator[type]:
    for folder in ("parametrisations", "structured"):
        package = importlib.import_module(f"{__name__}.{folder}")
        for module_info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{module_info.name}")
            for name, cls in inspect.getmembers(module, inspect.isclass):
                if cls.__module__ == module.__name__ and not name.startswith("_") and not inspect.isabstract(cls):
                    yield cls
