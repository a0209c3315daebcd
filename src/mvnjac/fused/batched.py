"""Many Gaussians of one row each: x (n, d), mean (n, d), Σ (n, d, d), value and gradients in one kernel call.

`fused/dense.py` has made sure that they are plain tensors of these shapes, and that nothing watches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mvnjac import kernels
from mvnjac.kernels import ITEMSIZE, cuda, limits
from mvnjac.kernels.addresses import address, address_or_zero
from mvnjac.parameters.checks import SYMMETRY
from mvnjac.tensors.tracing import plain, watched


class FusedBatch:
    """Gaussians of one row each, by the CPU's kernel: all of them are evaluated at once, when they are looked at."""

    __slots__ = ("_ready", "_versions", "covariance", "mean", "x")

    def __init__(self, x: Tensor, mean: Tensor, covariance: Tensor) -> None:
        self.x, self.mean, self.covariance = x, mean, covariance
        self._versions = self._now()
        self._ready: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.x, self.mean, self.covariance)

    @property
    def serves(self) -> bool:
        """Whether the kernel takes these tensors, of which the shapes are known to fit."""
        tensors, dtype = (self.x, self.mean, self.covariance), self.mean.dtype
        return kernels.native is not None and dtype in ITEMSIZE and all(plain(t, dtype) for t in tensors) and not watched()

    def changed(self) -> str | None:
        """What was changed in place since the numbers were looked at."""
        return None if self._now() == self._versions else "x, the mean or the covariance"

    def log_prob(self) -> Tensor | None:
        """(n) the log-densities."""
        return self._result("log_prob")

    def sum(self, weights: Tensor | None = None) -> dict[str, Tensor] | None:
        """Each row's gradients by its own mean and Σ; of none that are weighted."""
        if weights is not None:
            return None
        by_mean, by_matrix = self._result("mean"), self._result("covariance_matrix")
        return None if by_mean is None or by_matrix is None else {"mean": by_mean, "covariance_matrix": by_matrix}

    def evaluate(self, gradients: bool = True) -> bool:
        """All results, those by Σ where wanted; False where a shape is out of the ordinary or a row has no density."""
        native, dtype = kernels.native, self.mean.dtype
        n, d = self.x.shape
        if self.mean.shape != (n, d) or self.covariance.shape != (n, d, d) or not limits.kernel_many(d) or n == 0:
            return False
        log_prob = self.x.new_empty(n)
        ready = {"log_prob": log_prob, "mean": self.x.new_empty((n, d))}
        if gradients:
            ready["covariance_matrix"] = self.x.new_empty((n, d, d))
        good = native.small(
            ITEMSIZE[dtype], address(self.x), address(self.mean), address(self.covariance), address(log_prob),
            address(ready["mean"]), address_or_zero(ready.get("covariance_matrix")), n, d, SYMMETRY[dtype],
            torch.get_num_threads(),
        )  # fmt: skip
        self._ready = ready if good else {}
        return bool(good)

    def _result(self, name: str) -> Tensor | None:
        """A result is given away, since its owner may change it; asked for again it is computed again."""
        if self.changed() or (name not in self._ready and not self.evaluate()):
            return None
        return self._ready.pop(name)

    def _now(self) -> tuple[int, int, int]:
        return self.x._version, self.mean._version, self.covariance._version


class FusedBatchOnDevice(FusedBatch):
    """The same by Triton's kernel, of tensors on a GPU: their numbers are looked at once, as one flag, if at all."""

    __slots__ = ("_unseen",)

    def __init__(self, x: Tensor, mean: Tensor, covariance: Tensor, check: bool) -> None:
        super().__init__(x, mean, covariance)
        self._unseen = check

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.x, self.mean, self.covariance, self._unseen)

    @property
    def serves(self) -> bool:
        tensors, dtype = (self.x, self.mean, self.covariance), self.mean.dtype
        plainly = dtype in ITEMSIZE and all(plain(t, dtype, anywhere=True) for t in tensors)
        return plainly and cuda.available(*tensors) and not watched()

    def evaluate(self, gradients: bool = True) -> bool:
        """All results, those by Σ where wanted; False where a row has no density. Not looked at, such a row is NaN."""
        values = cuda.small_gaussians(
            self.x, self.mean, self.covariance, gradient=gradients, symmetry=SYMMETRY[self.x.dtype] if self._unseen else None
        )
        if self._unseen and bool(values.info.any()):
            return False
        self._unseen = False
        self._ready = {"log_prob": values.log_prob, "mean": values.scaled}
        if values.gradient is not None:
            self._ready["covariance_matrix"] = values.gradient
        return True


def _restored(kind: type[FusedBatch], *arguments: Any) -> FusedBatch | None:
    """A copy, evaluated anew; None where no kernel serves it, since it may have come to another device or another machine."""
    batch = kind(*arguments)
    return batch if batch.serves and batch.evaluate() else None
