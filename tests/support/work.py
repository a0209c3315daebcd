"""The amount of work of a computation, measured by the numbers that its operations write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import mvnjac


class Written(TorchDispatchMode):
    """Counts the entries of all results, and those of the largest result; views do not count.

    Unlike a count of floating-point operations, this includes elementwise operations and Fourier transforms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count, self.largest = 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        if not function.is_view:
            sizes = [t.numel() for t in tree_leaves(result) if isinstance(t, Tensor)]
            self.count, self.largest = self.count + sum(sizes), max(self.largest, *sizes, 0)
        return result


def written(call: Callable[[], object]) -> int:
    """The number of entries that a call writes."""
    with Written() as counter:
        call()
    return counter.count


def operations(x: Tensor, mean: Tensor, structure: mvnjac.Covariance, solve: bool = False) -> int:
    """The floating-point operations of the value, the scores of the mean, the total, and products with information and Hessian."""
    with FlopCounterMode(display=False) as counter:
        gaussian = mvnjac.Gaussian(mean, structure)
        J = gaussian.jacobian(x)
        J.sum()
        _ = J.log_prob, J["mean"]
        F = gaussian.fisher_information()
        v = torch.ones(F.shape[-1], dtype=torch.float64)
        b = F.matvec(v)
        if solve:
            F.solve(b)
        gaussian.hessian(x).matvec(v)
    return counter.get_total_flops()
