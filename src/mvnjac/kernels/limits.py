"""Sizes up to which each kernel is used; beyond them it is slower than torch's BLAS or LAPACK."""

from __future__ import annotations

from mvnjac import kernels
from mvnjac.kernels import cuda


def halves_sums(itemsize: int, prepared: bytes, n: int, d: int) -> bool:
    """Whether the kernel sums r rᵀ and whitens the sum, at d²/2 operations per row, instead of whitening rows first, at d².

    This is accurate if whitening amplifies errors of the sums at most 8 times (`MAX_SPREAD` in csrc/kernel_table.h), and
    faster for n ≥ 4d. The kernel applies the same rule to a prepared Gaussian, and falls back to whitening rows first if the
    data require it.
    """
    return bool(kernels.native.whitens_sums(itemsize, prepared, n, d))


def kernel_sums(d: int) -> bool:
    """Whether the compiled kernel forms the sums over rows: its arrays of size d×d fit in a core's cache."""
    return kernels.native is not None and 0 < d <= kernels.native.LARGEST


def kernel_many(d: int) -> bool:
    """Whether a batch of Gaussians uses the SIMD-batched kernel, one matrix per vector lane; these fit in the cache."""
    return kernels.native is not None and 0 < d <= kernels.native.LARGEST_SMALL


def triton_many(d: int) -> bool:
    """Whether a batch of Gaussians on a GPU uses the Triton kernel: each matrix fits in the registers of a program."""
    return 0 < d <= cuda.SMALL


def kernel_products(p: int) -> bool:
    """Whether the compiled kernel forms Aᵀ A for p columns: it fits in the cache; torch has no symmetric product (syrk)."""
    return kernels.native is not None and 0 < p <= 2 * kernels.native.LARGEST


def kernel_gram(d: int) -> bool:
    """Whether the compiled kernel forms JᵀJ: it fits in the cache beside a block of rows; otherwise BLAS forms it by chunks."""
    return kernels.native is not None and 0 < d <= kernels.native.LARGEST_GRAM


def kernel_factors(k: int) -> bool:
    """Whether the compiled kernel is used for k common factors: a cell of rows and variables fits in the cache."""
    return kernels.native is not None and 0 < k <= kernels.native.LARGEST_RANK
