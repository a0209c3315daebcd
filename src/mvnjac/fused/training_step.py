"""The log-density of rows of one Gaussian and its gradient with respect to mean and Σ, for training loops: two kernel calls.

The forward pass whitens the rows for the values, the backward pass whitens them again for the sums. If the backward pass runs
with create_graph or inside a transform, the general rule of `autodiff/log_prob.py` is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mvnjac.fused.dense import FusedDense, PreparedGaussian, factorised
from mvnjac.kernels import limits
from mvnjac.tensors.tracing import is_traced, plain, watched

#: (which of x, mean and Σ need a gradient, weights, x, mean, Σ) → these gradients
GeneralGradients = Callable[..., tuple[Tensor | None, ...]]


def training_step(x: object, mean: object, covariance: object, general: GeneralGradients) -> Tensor | None:
    """The log-densities (n), with an autograd graph to mean and Σ; None if the arguments are not supported."""
    if type(x) is not Tensor or not isinstance(mean, Tensor) or not isinstance(covariance, Tensor):
        return None
    if not (mean.requires_grad or covariance.requires_grad) or not torch.is_grad_enabled() or watched():
        return None
    dtype = mean.dtype
    if not (plain(x, dtype) and plain(mean, dtype, graph=True) and plain(covariance, dtype, graph=True)):
        return None
    if x.ndim != 2 or mean.ndim != 1 or covariance.ndim != 2 or not limits.kernel_sums(x.shape[1]):
        return None
    data = factorised(x, mean, covariance)
    if data is None:
        return None
    result: Tensor = TrainingStep.apply(x, mean, covariance, data, general)
    return result


class TrainingStep(Function):
    """(x, µ, Σ) → log p of each row, for validated arguments."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, covariance: Tensor, data: bytes, general: GeneralGradients) -> Tensor:
        ctx.save_for_backward(x, mean, covariance)
        ctx.data, ctx.general = data, general
        result = FusedDense(x, PreparedGaussian(mean, covariance, data)).log_prob()
        assert result is not None
        return result

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, covariance = ctx.saved_tensors
        needed = tuple(ctx.needs_input_grad[:3])
        if torch.is_grad_enabled() or watched() or is_traced(weights) or not limits.kernel_sums(x.shape[1]):
            return (*ctx.general(needed, weights, x, mean, covariance), None, None)
        equal = weights.stride() == (0,) or len(weights) == 1  # as after sum() and mean(): one factor for the totals
        rows = FusedDense(x, PreparedGaussian(mean, covariance, ctx.data))
        totals = rows.sum(None if equal else weights.contiguous())
        assert totals is not None
        factor = weights[0] if equal and len(weights) else None
        by_mean, by_matrix = (totals[name] if factor is None else totals[name].mul_(factor) for name in totals)
        return None, by_mean if needed[1] else None, by_matrix if needed[2] else None, None, None
