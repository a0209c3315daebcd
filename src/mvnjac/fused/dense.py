"""The everyday cases in one or two kernel calls: plain tensors, few variables.

    rows (n, d) of one Gaussian, Σ (d, d), on the CPU                   `FusedDense`
    many Gaussians of one row each, Σ (n, d, d), there or on a GPU      `FusedBatch`, `FusedBatchOnDevice` (fused/batched.py)

The numbers are looked at while they are in the cache. Where anything is out of the ordinary (a wrong shape, a graph, a number that
is no density) `everyday` gives None, and the general way does it, or says what is wrong. So there are no messages here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mvnjac import kernels
from mvnjac.fused.batched import FusedBatch, FusedBatchOnDevice
from mvnjac.kernels import CENTRED, COMPLETED, ITEMSIZE, cuda, limits
from mvnjac.kernels.addresses import address, address_or_zero
from mvnjac.parameters.checks import SYMMETRY
from mvnjac.tensors.tracing import plain, watched


class PreparedGaussian:
    """A mean (d,) and Σ (d, d), factorised for the kernels: as long as neither is changed in place."""

    __slots__ = ("_versions", "covariance", "d", "data", "dtype", "itemsize", "mean", "native")

    def __init__(self, mean: Tensor, covariance: Tensor, data: bytes) -> None:
        self.native, self.mean, self.covariance, self.data = kernels.native, mean, covariance, data
        self.dtype, self.d = mean.dtype, mean.shape[0]
        self.itemsize = ITEMSIZE[self.dtype]
        self._versions = mean._version, covariance._version

    def __reduce__(self) -> tuple[Any, ...]:
        return prepare, (
            self.mean,
            self.covariance,
        )  # the kernels are the other process's; a copy of a tensor has counted no changes

    def unchanged(self) -> bool:
        """Whether the factor is still that of the tensors."""
        return (self.mean._version, self.covariance._version) == self._versions

    def rows(self, x: Tensor) -> FusedDense | None:
        """Rows x (n, d), if they are plain and finite."""
        if type(x) is not Tensor or watched() or not plain(x, self.dtype) or x.ndim != 2 or not self.unchanged():
            return None
        n, d = x.shape
        if d != self.d or not self.native.finite(self.itemsize, address(x), n * d, torch.get_num_threads()):
            return None
        return FusedDense(x, self)


def prepare(mean: object, covariance: object) -> PreparedGaussian | None:
    """The mean and Σ, where they are plain and a density."""
    found = _parameters(mean, covariance)
    if found is None:
        return None
    mean, covariance = found
    if mean.ndim != 1 or covariance.ndim != 2:
        return None
    data = factorised(None, mean, covariance)
    return None if data is None else PreparedGaussian(mean, covariance, data)


def fused_rows(
    x: object, mean: object, covariance: object, gradients: bool = True, check: bool = True
) -> FusedDense | FusedBatch | None:
    """The rows, where they, the mean and Σ are plain, of these few shapes, and a density.

    gradients: those will be asked for; check: look at numbers that are on a device (they are looked at on the CPU in any case).
    """
    if type(x) is not Tensor:
        return None
    found = _parameters(mean, covariance)
    if found is None:
        return _on_device(x, mean, covariance, gradients, check)
    mean, covariance = found
    if x.ndim != 2 or not plain(x, mean.dtype):
        return None
    if mean.ndim == 1 and covariance.ndim == 2:
        data = factorised(x, mean, covariance)
        return None if data is None else FusedDense(x, PreparedGaussian(mean, covariance, data))
    if mean.ndim == 2 and covariance.ndim == 3:
        batch = FusedBatch(x, mean, covariance)
        return batch if batch.evaluate(gradients) else None
    return None


def _on_device(x: Tensor, mean: object, covariance: object, gradients: bool, check: bool) -> FusedBatchOnDevice | None:
    """Many Gaussians where Triton's kernel serves."""
    if type(mean) is not Tensor or type(covariance) is not Tensor or not cuda.available(x, mean, covariance) or watched():
        return None
    dtype = mean.dtype
    if dtype not in ITEMSIZE or not all(plain(t, dtype, anywhere=True) for t in (x, mean, covariance)) or x.ndim != 2:
        return None
    n, d = x.shape
    if n == 0 or mean.shape != (n, d) or covariance.shape != (n, d, d) or not limits.triton_many(d):
        return None
    if not x.device == mean.device == covariance.device:
        return None
    batch = FusedBatchOnDevice(x, mean, covariance, check)
    return batch if batch.evaluate(gradients) else None


def _parameters(mean: object, covariance: object) -> tuple[Tensor, Tensor] | None:
    if kernels.native is None or type(mean) is not Tensor or type(covariance) is not Tensor or watched():
        return None
    dtype = mean.dtype
    if dtype not in ITEMSIZE or not plain(mean, dtype) or not plain(covariance, dtype):
        return None
    return mean, covariance


def factorised(x: Tensor | None, mean: Tensor, covariance: Tensor) -> bytes | None:
    """What the kernels need of mean (d,) and Σ (d, d); None where they, or the rows x (n, d), do not fit or are no density."""
    (d,), native = mean.shape, kernels.native
    if covariance.shape != (d, d) or not limits.kernel_sums(d):
        return None
    rows, n = 0, 0
    if x is not None:
        n, wide = x.shape
        if wide != d:
            return None
        rows = address(x)
    dtype = mean.dtype
    data = native.prepare(ITEMSIZE[dtype], rows, address(mean), address(covariance), n, d, SYMMETRY[dtype])
    return data if type(data) is bytes else None


class FusedDense:
    """Rows (n, d) of one Gaussian. Results are None where x, the mean or Σ was changed in place since."""

    __slots__ = ("_version", "prepared", "x")

    def __init__(self, x: Tensor, prepared: PreparedGaussian) -> None:
        self.x, self.prepared, self._version = x, prepared, x._version

    def __reduce__(self) -> tuple[Any, ...]:
        return fused_rows, (self.x, self.prepared.mean, self.prepared.covariance)

    def changed(self) -> str | None:
        """What was changed in place since the numbers were looked at."""
        if self.x._version != self._version:
            return "x"
        return None if self.prepared.unchanged() else "the mean or the covariance"

    def log_prob(self) -> Tensor | None:
        """(n) the log-densities."""
        if self.changed():
            return None
        own, x = self.prepared, self.x
        n = x.shape[0]
        result = x.new_empty(n)
        own.native.log_prob(own.itemsize, address(x), own.data, n, own.d, address(result), torch.get_num_threads())
        return result

    def sum(self, weights: Tensor | None = None) -> dict[str, Tensor] | None:
        """The (weighted) totals by the mean and by Σ."""
        return None if self.changed() else self._sums(COMPLETED, weights)

    def natural_gradient(self) -> dict[str, Tensor] | None:
        """The mean of r = x − µ, and of r rᵀ − Σ."""
        n = self.x.shape[0]
        if self.changed() or n == 0:
            return None
        sums = self._sums(CENTRED)
        sums["mean"].div_(n)
        sums["covariance_matrix"].div_(n).sub_(self.prepared.covariance)
        return sums

    def _sums(self, what: int, weights: Tensor | None = None) -> dict[str, Tensor]:
        own, x = self.prepared, self.x
        d = own.d
        by_mean, by_matrix = x.new_empty(d), x.new_empty((d, d))
        own.native.sums(
            own.itemsize, address(x), own.data, x.shape[0], d, 0, address_or_zero(weights, own.dtype),
            address(by_mean), address(by_matrix), 0, 0, what, torch.get_num_threads(),
        )  # fmt: skip
        return {"mean": by_mean, "covariance_matrix": by_matrix}

    def gram(self, weights: Tensor | None) -> Tensor | None:
        """(p, p) JᵀWJ over all columns, weights (n,)."""
        own, x = self.prepared, self.x
        if self.changed() or not limits.kernel_gram(own.d) or (weights is not None and not plain(weights, own.dtype)):
            return None
        p = own.d + own.d * (own.d + 1) // 2
        result = x.new_empty((p, p))
        own.native.gram(
            own.itemsize, address(x), own.data, x.shape[0], own.d, address_or_zero(weights, own.dtype),
            address(result), torch.get_num_threads(),
        )  # fmt: skip
        return result

    def matrix(self, out: Tensor) -> bool:
        """(n, d + d(d+1)/2) by the mean and the unique elements of Σ, written into `out`; False where that cannot be."""
        if type(out) is not Tensor or self.changed() or not out.is_contiguous():
            return False
        own, x = self.prepared, self.x
        threads = torch.get_num_threads()
        own.native.matrix(own.itemsize, address(x), own.data, x.shape[0], own.d, address(out), threads)
        return True
