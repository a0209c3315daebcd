"""Settings of all tests."""

from __future__ import annotations

import os
import signal
import threading

import torch
from hypothesis import settings

# A background job of a shell ignores Ctrl-C, and so would the commands that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Deterministic and without deadlines, because a shared machine can be slow.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("ci")
torch.set_num_threads(1)  # two workers share two cores
os.environ["MPLBACKEND"] = "agg"  # no windows

#: Triton's kernels are tested where Triton can run: by `make test-triton`, or on a GPU by `pytest tests/triton`
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available() else ["triton"]
