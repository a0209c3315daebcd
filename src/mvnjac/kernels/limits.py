"""Up to which sizes each kernel is the faster way."""

from __future__ import annotations

from mvnjac import kernels
from mvnjac.kernels import cuda


def halves_sums(itemsize: int, prepared: bytes, n: int, d: int) -> bool:
    """Whether the kernel sums r rᵀ of a prepared Gaussian and whitens the sum: d²/2 a row instead of d².

    It costs no digits where an error of the sums grows at most 8 times (`NARROW` in arguments.h), and pays from n = 4d on. The kernel
    decides by the same rule, and goes back to whitening rows first where the rows themselves do not allow it.
    """
    return bool(kernels.native.whitens_sums(itemsize, prepared, n, d))


def kernel_sums(d: int) -> bool:
    """Whether the compiled kernel forms the sums: what it needs of Σ stays in the cache of a core, where BLAS is no better."""
    return kernels.native is not None and 0 < d <= kernels.native.LARGEST


def kernel_many(d: int) -> bool:
    """Whether many Gaussians are factorised in step: as many matrices as a vector has lanes stay in the cache."""
    return kernels.native is not None and 0 < d <= kernels.native.LARGEST_SMALL


def triton_many(d: int) -> bool:
    """Whether many Gaussians on a GPU go through Triton's kernel: where one of them stays in the registers of a program."""
    return 0 < d <= cuda.SMALL


def kernel_products(p: int) -> bool:
    """Whether the compiled kernel forms Aᵀ A of rows with p columns: where that stays in the cache, since BLAS has no half product."""
    return kernels.native is not None and 0 < p <= 2 * kernels.native.LARGEST


def kernel_gram(d: int) -> bool:
    """Whether the compiled kernel forms JᵀJ: where that stays in the cache beside a block of rows; else BLAS does, chunk by chunk."""
    return kernels.native is not None and 0 < d <= kernels.native.LARGEST_GRAM


def kernel_factors(k: int) -> bool:
    """Whether the compiled kernel goes through the rows of k common factors: where a cell of rows and variables stays in the cache."""
    return kernels.native is not None and 0 < k <= kernels.native.LARGEST_RANK
