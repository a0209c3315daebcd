"""Lower bounds: necessary parts of the work, such as writing the result, reading the operands, or the matrix products.

They return no result. The largest lower bound of a workload is the relevant one.
"""

from __future__ import annotations

import torch

from benchmarks.implementations.operands import tensors
from benchmarks.workload import Data


def _columns(data: Data) -> int:
    d = data["x"].shape[-1]
    return d + d * (d + 1) // 2


def fill_fresh(data: Data):
    """Fills new memory, which is returned so that it is released after the time is taken."""
    x = torch.from_numpy(data["x"])
    shape = len(x), _columns(data)
    return lambda: torch.empty(shape, dtype=x.dtype).fill_(1.0)


def fill_given(data: Data):
    x = torch.from_numpy(data["x"])
    out = torch.zeros(len(x), _columns(data), dtype=x.dtype)
    return lambda: out.fill_(1.0)


def torch_products(data: Data):
    """potrf, potri, and the two products of the residuals: a = P r, aᵀ x."""
    x, _, covariance = tensors(data)
    return lambda: (x @ torch.cholesky_inverse(torch.linalg.cholesky(covariance))).mT @ x


def openblas_products(data: Data):
    """potrf, potri and one syrk, half the products of a gemm, with the OpenBLAS of scipy."""
    from scipy.linalg import get_blas_funcs, get_lapack_funcs

    x, covariance = data["x"].T, data["covariance"].T  # column-major without a copy
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (covariance,))
    (syrk,) = get_blas_funcs(("syrk",), (x,))

    def call():
        factor, _ = potrf(covariance, lower=1)
        return potri(factor, lower=1)[0], syrk(1.0, x, lower=1)

    return call


def copy(data: Data):
    operands = tensors(data)
    return lambda: [operand.clone() for operand in operands]


def syrk(data: Data):
    """JᵀJ of the ready n×p matrix, with the OpenBLAS of scipy."""
    from scipy.linalg import get_blas_funcs

    import mvnjac

    J = mvnjac.jacobian(*tensors(data)).matrix().numpy().T
    (product,) = get_blas_funcs(("syrk",), (J,))
    return lambda: product(1.0, J, lower=1)


def two_gemms(data: Data):
    (covariance,) = tensors(data, "covariance")
    return lambda: (covariance @ covariance) @ covariance


def low_rank_products(data: Data):
    """The residuals, and the products of u = v^-½ r and B = v^-½ W that remain: u B, ŵ Bᵀ, uᵀ ŵ, BᵀB, B C⁻¹."""
    x, mean, W, v = tensors(data)

    def call():
        u, B = x - mean, W / v.sqrt().unsqueeze(-1)
        w = u @ B
        torch.addmm(u, w, B.mT, alpha=-1, out=u)
        return u.mT @ w, B @ (B.mT @ B)

    return call


def product_of_patterns(data: Data):
    """A table with a row for each pattern of missing entries and a column for each unique element of Σ, times itself."""
    x = torch.from_numpy(data["x"])
    d = x.shape[1]
    table = torch.randn(len(x.isnan().unique(dim=0)), d * (d + 1) // 2, dtype=x.dtype)
    return lambda: table.mT @ table
