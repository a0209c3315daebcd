"""Operands as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.workload import Data


def tensors(data: Data, *names: str) -> tuple[Tensor, ...]:
    """The named operands, or all of them."""
    return tuple(torch.from_numpy(data[name]) for name in names or data)


def leaves(*parameters: Tensor) -> list[Tensor]:
    """New leaves of an autograd graph, as in a training step, which share the memory of the parameters."""
    return [parameter.detach().requires_grad_() for parameter in parameters]
