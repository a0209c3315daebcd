"""Names that a package exports without importing their modules, and names that moved.

It uses nothing of mvnjac, and importing it imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any


class LazyNames:
    """The public names of a package, each of which is imported when it is first used.

    homes: name → the module that defines it, below mvnjac.
    """

    def __init__(self, package: str, homes: Mapping[str, str]) -> None:
        self._package, self._homes = package, homes

    def load(self, name: str) -> Any:
        """The value of a name, for the `__getattr__` of the package; later accesses do not call it.

        Raises:
            AttributeError: the package has no such name.
        """
        if name not in self._homes:
            raise AttributeError(f"module {self._package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"mvnjac.{self._homes[name]}"), name)
        setattr(sys.modules[self._package], name, value)
        return value

    def names(self, *others: str) -> list[str]:
        """For the `__dir__` of the package: these names and others, sorted."""
        return sorted({*self._homes, *others})


def moved(package: str, name: str, home: str, new: str) -> Any:
    """The value of a name that users should import from the module `new`, with a DeprecationWarning; home: where it is defined."""
    if name.startswith("__"):
        raise AttributeError(name)
    value = getattr(importlib.import_module(home), name)
    warnings.warn(f"{package}.{name} is deprecated; import {name} from {new}.", DeprecationWarning, stacklevel=3)
    return value
