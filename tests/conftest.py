"""Settings of all tests."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

# Deterministic, and without deadlines: a shared machine is slow at times, which says nothing about the code.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("ci")
torch.set_num_threads(1)  # two workers share two cores

#: Triton's kernels are tested where Triton can run: by `make test-triton`, or on a GPU by `pytest tests/triton`
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available() else ["triton"]
