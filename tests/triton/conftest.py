"""Where the kernels run: on a GPU if Triton is not asked to interpret them on the CPU."""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

if not (INTERPRETED or torch.cuda.is_available()):
    raise pytest.UsageError("tests/triton: set TRITON_INTERPRET=1 (or run `make test-triton`); there is no GPU here.")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")
