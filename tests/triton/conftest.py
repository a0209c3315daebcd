"""The device of the Triton tests: the CPU under Triton's interpreter (TRITON_INTERPRET=1), otherwise a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from mvnjac import kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not (INTERPRETED or torch.cuda.is_available()):
    raise pytest.UsageError("tests/triton: set TRITON_INTERPRET=1 (or run `make test-triton`); there is no GPU here.")


@pytest.fixture(autouse=True)
def _no_other_kernels() -> Iterator[None]:
    """Disable the C++ kernels, which would take precedence on the CPU."""
    with kernels.switched(False):
        yield


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")
