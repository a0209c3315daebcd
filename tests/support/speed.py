"""Which cases of a costly test are in `make test`, and which only in `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

#: a dense parametrisation, a structure with a factor of its own, and one whose observations are matrices
QUICK = ("Dense", "LowRank", "Kronecker")


def mostly_slow(names: Iterable[str], quick: Iterable[str] = QUICK) -> list[Any]:
    """The names as parameters of a test, those that are not quick marked as slow."""
    return [name if name in set(quick) else pytest.param(name, marks=pytest.mark.slow) for name in names]
