"""Covariance structures, one file each. They are found here by themselves: a new structure is one new file."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation


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
