"""Operands as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.workload import Data


def tensors(data: Data, *names: str) -> tuple[Tensor, ...]:
    """The named operands, or all of them."""
    return tuple(torch.from_numpy(data[name]) for name in names or data)


def leaves(*parameters: Tensor) -> list[Tensor]:
    """As in a training step: leaves of a new graph. They share the parameters' memory."""
    return [parameter.detach().requires_grad_() for parameter in parameters]
