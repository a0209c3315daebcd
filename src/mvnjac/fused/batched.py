"""A batch of Gaussians with one row each: x (n, d), mean (n, d), Σ (n, d, d); values and gradients in one kernel call.

`fused/dense.py` checks that these are plain tensors and that no transform, compiler or mode of torch is active.
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
    """A batch of Gaussians with one row each, on the CPU. One kernel call checks the values and computes all results."""

    __slots__ = ("_results", "_versions", "covariance", "mean", "x")

    def __init__(self, x: Tensor, mean: Tensor, covariance: Tensor) -> None:
        self.x, self.mean, self.covariance = x, mean, covariance
        self._versions = self._current_versions()
        self._results: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.x, self.mean, self.covariance)

    @property
    def supported(self) -> bool:
        """Whether the kernel supports these tensors, whose shapes are already known to match."""
        tensors, dtype = (self.x, self.mean, self.covariance), self.mean.dtype
        return kernels.native is not None and dtype in ITEMSIZE and all(plain(t, dtype) for t in tensors) and not watched()

    def changed(self) -> str | None:
        """What was changed in place since the values were checked, for messages; None if nothing was."""
        return None if self._current_versions() == self._versions else "x, the mean or the covariance"

    def log_prob(self) -> Tensor | None:
        """The log-densities (n)."""
        return self._take("log_prob")

    def sum(self, weights: Tensor | None = None) -> dict[str, Tensor] | None:
        """The gradients of each row with respect to its mean and its Σ; None with weights, which are not supported."""
        if weights is not None:
            return None
        by_mean, by_matrix = self._take("mean"), self._take("covariance_matrix")
        return None if by_mean is None or by_matrix is None else {"mean": by_mean, "covariance_matrix": by_matrix}

    def evaluate(self, gradients: bool = True) -> bool:
        """Compute all results; False if a shape is not supported or a row is invalid. gradients: including those for Σ."""
        native, dtype = kernels.native, self.mean.dtype
        n, d = self.x.shape
        if self.mean.shape != (n, d) or self.covariance.shape != (n, d, d) or not limits.kernel_many(d) or n == 0:
            return False
        log_prob = self.x.new_empty(n)
        results = {"log_prob": log_prob, "mean": self.x.new_empty((n, d))}
        if gradients:
            results["covariance_matrix"] = self.x.new_empty((n, d, d))
        valid = native.small(
            ITEMSIZE[dtype], address(self.x), address(self.mean), address(self.covariance), address(log_prob),
            address(results["mean"]), address_or_zero(results.get("covariance_matrix")), n, d, SYMMETRY[dtype],
            torch.get_num_threads(),
        )  # fmt: skip
        self._results = results if valid else {}
        return bool(valid)

    def _take(self, name: str) -> Tensor | None:
        """A result, which is not stored any longer because the caller may modify it; a second request computes it again."""
        if self.changed() or (name not in self._results and not self.evaluate()):
            return None
        return self._results.pop(name)

    def _current_versions(self) -> tuple[int, int, int]:
        return self.x._version, self.mean._version, self.covariance._version


class FusedBatchOnDevice(FusedBatch):
    """The same on a GPU, by the Triton kernel. If values are checked, the kernel does so and one flag is copied to the host."""

    __slots__ = ("_unchecked",)

    def __init__(self, x: Tensor, mean: Tensor, covariance: Tensor, check: bool) -> None:
        super().__init__(x, mean, covariance)
        self._unchecked = check

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.x, self.mean, self.covariance, self._unchecked)

    @property
    def supported(self) -> bool:
        tensors, dtype = (self.x, self.mean, self.covariance), self.mean.dtype
        all_plain = dtype in ITEMSIZE and all(plain(t, dtype, anywhere=True) for t in tensors)
        return all_plain and cuda.available(*tensors) and not watched()

    def evaluate(self, gradients: bool = True) -> bool:
        """Compute all results; False if a row is invalid. Without checks an invalid row is NaN."""
        values = cuda.small_gaussians(
            self.x, self.mean, self.covariance, gradient=gradients, symmetry=SYMMETRY[self.x.dtype] if self._unchecked else None
        )
        if self._unchecked and bool(values.info.any()):
            return False
        self._unchecked = False
        self._results = {"log_prob": values.log_prob, "mean": values.scaled}
        if values.gradient is not None:
            self._results["covariance_matrix"] = values.gradient
        return True


def _restored(kind: type[FusedBatch], *arguments: Any) -> FusedBatch | None:
    """An unpickled copy, evaluated again; None if the kernel is not available on this machine or for this device."""
    batch = kind(*arguments)
    return batch if batch.supported and batch.evaluate() else None
