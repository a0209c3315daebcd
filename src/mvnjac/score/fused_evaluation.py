"""The evaluation by one kernel call, for common shapes; `GeneralEvaluation` computes what the kernel does not support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor

from mvnjac.fused.batched import FusedBatch
from mvnjac.fused.dense import FusedDense
from mvnjac.parameters.selection import Selection
from mvnjac.score.evaluation import Evaluation, GeneralEvaluation, fresh_matrix
from mvnjac.score.row_arguments import check_out, row_weights
from mvnjac.tensors.tracing import intercepted, watched
from mvnjac.whitening.residuals import changed_in_place


class FusedEvaluation:
    """Rows that a kernel has validated and can evaluate, and the general evaluation, which is created when first needed."""

    __slots__ = ("_general", "fused")

    def __init__(self, fused: FusedDense | FusedBatch, general: Callable[[], GeneralEvaluation] | GeneralEvaluation) -> None:
        self.fused, self._general = fused, general

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.general, None if self.fused.changed() else self.fused)

    @property
    def general(self) -> GeneralEvaluation:
        if not isinstance(self._general, GeneralEvaluation):
            changed = self.fused.changed()
            if changed is not None:
                raise changed_in_place(changed)
            self._general = self._general()
        return self._general

    @property
    def batch(self) -> Size:
        return self.fused.x.shape[:1]

    @property
    def dtype(self) -> torch.dtype:
        return self.fused.x.dtype

    @property
    def device(self) -> torch.device:
        return self.fused.x.device

    # The general evaluation is used if a tracer or a mode of torch must see all operations, or if the kernel returns None.

    def log_prob(self) -> Tensor:
        result = None if intercepted() else self.fused.log_prob()
        return self.general.log_prob() if result is None else result

    def matrix(self, selection: Selection | None, out: Tensor | None) -> Tensor:
        fused = self.fused
        if selection is not None or not isinstance(fused, FusedDense) or intercepted():
            return self.general.matrix(selection, out)
        n, d = fused.x.shape
        shape = (n, d + d * (d + 1) // 2)
        if out is None:
            out = fresh_matrix(shape, fused.x.dtype, fused.x.device)
        else:
            check_out(out, shape, fused.x.dtype, fused.x.device, False)
        return out if fused.matrix(out) else self.general.matrix(selection, out)

    def sum(self, selection: Selection | None, weights: Tensor | None) -> dict[str, Tensor]:
        if selection is None and weights is None and not intercepted():
            result = self.fused.sum()
            if result is not None:
                return result
        return self.general.sum(selection, weights)

    def gram(self, selection: Selection | None, weights: Tensor | None) -> Tensor:
        fused = self.fused
        if selection is None and isinstance(fused, FusedDense) and not intercepted() and (weights is None or not watched()):
            result = fused.gram(row_weights(weights, "weights", self.batch, Size(), self.dtype))
            if result is not None:
                return result
        return self.general.gram(selection, weights)


def _restored(general: GeneralEvaluation, fused: FusedDense | FusedBatch | None) -> Evaluation:
    """The unpickled evaluation; the general one if the kernel is not available in this process."""
    return general if fused is None else FusedEvaluation(fused, general)
