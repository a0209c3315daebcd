"""Common cases in one or two kernel calls: plain tensors of few variables.

    rows (n, d) of one Gaussian, Σ (d, d), on the CPU                 `FusedDense`
    Gaussians with one row each, Σ (n, d, d), on the CPU or a GPU     `FusedBatch`, `FusedBatchOnDevice` (fused/batched.py)

The kernels check the values while these are in the cache. For all other arguments (other shapes, an autograd graph, an invalid
covariance) the functions return None; the general code then computes the results or raises the error.
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
    """A mean (d,) and Σ (d, d), factorised for the kernels; valid until one of them is changed in place."""

    __slots__ = ("_versions", "covariance", "d", "data", "dtype", "itemsize", "mean", "native")

    def __init__(self, mean: Tensor, covariance: Tensor, data: bytes) -> None:
        self.native, self.mean, self.covariance, self.data = kernels.native, mean, covariance, data
        self.dtype, self.d = mean.dtype, mean.shape[0]
        self.itemsize = ITEMSIZE[self.dtype]
        self._versions = mean._version, covariance._version

    def __reduce__(self) -> tuple[Any, ...]:
        return prepare, (self.mean, self.covariance)  # prepared again, by the kernels of the process that unpickles it

    def unchanged(self) -> bool:
        """Whether neither tensor was changed in place since it was factorised."""
        return (self.mean._version, self.covariance._version) == self._versions

    def rows(self, x: Tensor) -> FusedDense | None:
        """The rows x (n, d); None unless x is a plain tensor with finite values."""
        if type(x) is not Tensor or watched() or not plain(x, self.dtype) or x.ndim != 2 or not self.unchanged():
            return None
        n, d = x.shape
        if d != self.d or not self.native.finite(self.itemsize, address(x), n * d, torch.get_num_threads()):
            return None
        return FusedDense(x, self)


def prepare(mean: object, covariance: object) -> PreparedGaussian | None:
    """The mean (d,) and Σ (d, d) for the kernels; None unless they are plain tensors and Σ is positive definite."""
    parameters = _plain_parameters(mean, covariance)
    if parameters is None:
        return None
    mean, covariance = parameters
    if mean.ndim != 1 or covariance.ndim != 2:
        return None
    data = factorised(None, mean, covariance)
    return None if data is None else PreparedGaussian(mean, covariance, data)


def fused_rows(
    x: object, mean: object, covariance: object, gradients: bool = True, check: bool = True
) -> FusedDense | FusedBatch | None:
    """The rows; None unless x, mean and Σ are plain tensors of one of the shapes above with valid values.

    Args:
        gradients: whether gradients are needed.
        check: whether values on a GPU are checked; on the CPU they always are.
    """
    if type(x) is not Tensor:
        return None
    parameters = _plain_parameters(mean, covariance)
    if parameters is None:
        return _on_device(x, mean, covariance, gradients, check)
    mean, covariance = parameters
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
    """A batch of Gaussians on a GPU; None if the Triton kernel does not support the arguments."""
    if type(mean) is not Tensor or type(covariance) is not Tensor or not cuda.available(x, mean, covariance) or watched():
        return None
    dtype = mean.dtype
    if dtype not in ITEMSIZE or not all(plain(t, dtype, anywhere=True) for t in (x, mean, covariance)) or x.ndim != 2:
        return None
    n, d = x.shape
    shapes_match = n > 0 and mean.shape == (n, d) and covariance.shape == (n, d, d)
    if not shapes_match or not limits.triton_many(d) or not x.device == mean.device == covariance.device:
        return None
    batch = FusedBatchOnDevice(x, mean, covariance, check)
    return batch if batch.evaluate(gradients) else None


def _plain_parameters(mean: object, covariance: object) -> tuple[Tensor, Tensor] | None:
    """Both as tensors; None unless they are plain CPU tensors of one supported dtype and the kernels are available."""
    if kernels.native is None or type(mean) is not Tensor or type(covariance) is not Tensor or watched():
        return None
    dtype = mean.dtype
    if dtype not in ITEMSIZE or not plain(mean, dtype) or not plain(covariance, dtype):
        return None
    return mean, covariance


def factorised(x: Tensor | None, mean: Tensor, covariance: Tensor) -> bytes | None:
    """The kernels' data of mean (d,) and Σ (d, d), with its factor; None if these, or the rows x (n, d), are invalid."""
    (d,), native = mean.shape, kernels.native
    if covariance.shape != (d, d) or not limits.kernel_sums(d):
        return None
    rows, n = 0, 0
    if x is not None:
        n, columns = x.shape
        if columns != d:
            return None
        rows = address(x)
    dtype = mean.dtype
    data = native.prepare(ITEMSIZE[dtype], rows, address(mean), address(covariance), n, d, SYMMETRY[dtype])
    return data if type(data) is bytes else None


class FusedDense:
    """Rows (n, d) of one Gaussian. The results are None if x, the mean or Σ was changed in place after the checks."""

    __slots__ = ("_version", "prepared", "x")

    def __init__(self, x: Tensor, prepared: PreparedGaussian) -> None:
        self.x, self.prepared, self._version = x, prepared, x._version

    def __reduce__(self) -> tuple[Any, ...]:
        return fused_rows, (self.x, self.prepared.mean, self.prepared.covariance)

    def changed(self) -> str | None:
        """What was changed in place since the values were checked, for messages; None if nothing was."""
        if self.x._version != self._version:
            return "x"
        return None if self.prepared.unchanged() else "the mean or the covariance"

    def log_prob(self) -> Tensor | None:
        """The log-densities (n)."""
        if self.changed():
            return None
        prepared, x = self.prepared, self.x
        n = x.shape[0]
        result = x.new_empty(n)
        threads = torch.get_num_threads()
        prepared.native.log_prob(prepared.itemsize, address(x), prepared.data, n, prepared.d, address(result), threads)
        return result

    def sum(self, weights: Tensor | None = None) -> dict[str, Tensor] | None:
        """The (weighted) total gradients with respect to the mean and Σ."""
        return None if self.changed() else self._sums(COMPLETED, weights)

    def natural_gradient(self) -> dict[str, Tensor] | None:
        """The averages of r and of r rᵀ − Σ over the rows, where r = x − µ."""
        n = self.x.shape[0]
        if self.changed() or n == 0:
            return None
        sums = self._sums(CENTRED)
        sums["mean"].div_(n)
        sums["covariance_matrix"].div_(n).sub_(self.prepared.covariance)
        return sums

    def _sums(self, kind: int, weights: Tensor | None = None) -> dict[str, Tensor]:
        prepared, x = self.prepared, self.x
        d = prepared.d
        by_mean, by_matrix = x.new_empty(d), x.new_empty((d, d))
        prepared.native.sums(
            prepared.itemsize, address(x), prepared.data, x.shape[0], d, 0, address_or_zero(weights, prepared.dtype),
            address(by_mean), address(by_matrix), 0, 0, kind, torch.get_num_threads(),
        )  # fmt: skip
        return {"mean": by_mean, "covariance_matrix": by_matrix}

    def gram(self, weights: Tensor | None) -> Tensor | None:
        """JᵀWJ (p, p) over all columns; weights (n,)."""
        prepared, x = self.prepared, self.x
        if self.changed() or not limits.kernel_gram(prepared.d) or (weights is not None and not plain(weights, prepared.dtype)):
            return None
        p = prepared.d + prepared.d * (prepared.d + 1) // 2
        result = x.new_empty((p, p))
        prepared.native.gram(
            prepared.itemsize, address(x), prepared.data, x.shape[0], prepared.d, address_or_zero(weights, prepared.dtype),
            address(result), torch.get_num_threads(),
        )  # fmt: skip
        return result

    def matrix(self, out: Tensor) -> bool:
        """Write the matrix (n, p) for the mean and the unique elements of Σ into `out`; False if that is not supported."""
        if type(out) is not Tensor or self.changed() or not out.is_contiguous():
            return False
        prepared, x = self.prepared, self.x
        threads = torch.get_num_threads()
        prepared.native.matrix(prepared.itemsize, address(x), prepared.data, x.shape[0], prepared.d, address(out), threads)
        return True
