"""Compiled kernels called with tensors. Each says whether it could do it; if not, plain torch does."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from mvnjac import kernels
from mvnjac.kernels import ITEMSIZE, PLAIN, WHITENED, limits
from mvnjac.kernels.addresses import address, address_or_zero
from mvnjac.kernels.reference import Form, Patterns
from mvnjac.tensors.tracing import intercepted, is_traced, transforming


def _in_reach(*tensors: Tensor | None) -> bool:
    """Whether these are numbers of one dtype in CPU memory, contiguous along the last dimension, that nothing has wrapped or tracks."""
    there = [t for t in tensors if t is not None]
    dtype = there[0].dtype
    return (
        kernels.native is not None
        and dtype in ITEMSIZE
        and not (transforming() or intercepted() or is_traced(*there))
        and all(type(t) in PLAIN for t in there)
        and all(t.is_cpu and t.dtype == dtype and not t.is_neg() and t.ndim > 0 for t in there)
        and all(t.shape[-1] == 1 or t.stride(-1) == 1 for t in there)
    )


def finite(x: Tensor) -> bool | None:
    """Whether all numbers are finite; None where the kernel cannot say."""
    if x.numel() == 0 or not _in_reach(x) or not x.is_contiguous():
        return None
    return bool(kernels.native.finite(ITEMSIZE[x.dtype], address(x), x.numel(), torch.get_num_threads()))


def equals_transpose(A: Tensor) -> bool | None:
    """Whether A (..., d, d) is symmetric to the last bit; None where the kernel cannot say."""
    if A.numel() == 0 or not _in_reach(A) or not A.is_contiguous():
        return None
    d, itemsize = A.shape[-1], ITEMSIZE[A.dtype]
    first = address(A)
    return all(kernels.native.symmetric(itemsize, first + k * d * d * itemsize, d) for k in range(A.numel() // (d * d)))


def packed(
    left: Tensor,
    right: Tensor,
    offset: Tensor,
    out: Tensor,
    form: Form,
    diagonal: Tensor | None = None,
    patterns: Patterns | None = None,
) -> bool:
    """`reference.packed` into `out`; False where the kernel cannot do it."""
    n, d = out.shape[0], left.shape[-1]
    if n == 0 or left.shape != (n, d) or right.shape != (n, d) or not _in_reach(left, right, offset, out, diagonal):
        return False
    if not offset.is_contiguous() or (diagonal is not None and (diagonal.ndim != 1 or not diagonal.is_contiguous())):
        return False
    pattern = observed = None
    if patterns is not None:
        pattern, observed = patterns.pattern.contiguous(), patterns.observed.contiguous()
        if not (patterns.by_row and patterns.by_column):
            return False
    elif offset.ndim == 2:
        if offset.shape[0] != n:
            return False
        pattern = torch.arange(n, dtype=torch.int64, device="cpu")
    below = 2 * form.coefficient if form.mirrored else form.coefficient
    kernels.native.packed(
        ITEMSIZE[out.dtype], address(out), out.stride(0), address(left), left.stride(0), address(right), right.stride(0),
        address(offset), address_or_zero(diagonal), address_or_zero(pattern, torch.int64), address_or_zero(observed, torch.bool),
        n, d, below, form.coefficient, form.both, not form.strict, torch.get_num_threads(),
    )  # fmt: skip
    return True


def outer_products(A: Tensor, weights: Tensor | None, total: Tensor) -> bool:
    """total (p, p) += Aᵀ diag(w) A: A (n, p), weights (n,); False where the kernel cannot do it, or BLAS is better."""
    n, p = A.shape[-2:]
    if A.ndim != 2 or n == 0 or not limits.kernel_products(p) or not _in_reach(A, weights, total):
        return False
    if weights is not None and not weights.is_contiguous():
        return False
    kernels.native.outer_products(
        ITEMSIZE[A.dtype], address(A), A.stride(0), address_or_zero(weights), n, p, address(total), total.stride(0),
        torch.get_num_threads(),
    )  # fmt: skip
    return True


def hessian(scale_tril: Tensor, first: Tensor, second: Tensor, count: Tensor) -> Tensor | None:
    """(p, p) by the mean and the unique elements of Σ, from Σ w z (d,), Σ w z zᵀ (d, d) and Σ w; None where the kernel cannot do it."""
    d = scale_tril.shape[-1]
    if scale_tril.ndim != 2 or first.ndim != 1 or not limits.kernel_sums(d) or not _in_reach(first, second) or count.ndim:
        return None
    triangle = scale_tril if scale_tril.stride(-1) == 1 else scale_tril.mT
    if not _in_reach(first, triangle) or not second.is_contiguous() or first.requires_grad or second.requires_grad:
        return None
    native, itemsize, p = kernels.native, ITEMSIZE[first.dtype], d + d * (d + 1) // 2
    prepared = native.prepare_triangle(itemsize, address(first), address(scale_tril), *scale_tril.stride(), d)
    out = first.new_empty((p, p))
    native.hessian(itemsize, prepared, address(first), address(second), float(count), d, address(out))
    return out


def pairs(A: Tensor, B: Tensor, coefficient: float, out: Tensor) -> bool:
    """coefficient · Dᵀ (A ⊗ B) D made symmetric, over pairs of unique elements, into out: A, B (d, d) symmetric, d(d+1)/2 pairs."""
    d = A.shape[-1]
    A, B = (t if t.is_contiguous() else t.mT for t in (A, B))  # the same numbers
    if A.ndim != 2 or d == 0 or not _in_reach(A, B, out) or not (A.is_contiguous() and B.is_contiguous()):
        return False
    addresses = address(A), address(B), address(out)
    kernels.native.pairs(ITEMSIZE[A.dtype], *addresses, d, out.stride(0), coefficient, torch.get_num_threads())
    return True


def whitened_sums(
    x: Tensor,
    mean: Tensor,
    scale_tril: Tensor,
    weights: Tensor | None,
    squares: Tensor | None = None,
    fourth: Tensor | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Σ w z (d,) and Σ w z zᵀ (d, d) of z = L⁻¹(x − µ): x (n, d), mean (d,), scale_tril (d, d), weights (n,).

    x lies in memory row after row, or column after column. squares: (n,) memory for ‖z‖²; fourth: (d, d) memory for Σ w a² a²ᵀ of
    a = L⁻ᵀ z. None where the kernel cannot do it.
    """
    n, d = x.shape
    if n == 0 or not limits.kernel_sums(d):
        return None
    by_row = x.is_contiguous()
    if not by_row and x.stride(1) < n:  # columns that are one and the same
        return None
    triangle = scale_tril if scale_tril.stride(-1) == 1 else scale_tril.mT
    if (
        not _in_reach(x if by_row else x.mT, mean, triangle, weights, fourth)
        or (weights is not None and not weights.is_contiguous())
        or (fourth is not None and not fourth.is_contiguous())
    ):
        return None
    native, itemsize = kernels.native, ITEMSIZE[x.dtype]
    prepared = native.prepare_triangle(itemsize, address(mean), address(scale_tril), *scale_tril.stride(), d)
    first, second = x.new_empty(d), x.new_empty(Size((d, d)))
    native.sums(
        itemsize, address(x), prepared, n, d, 0 if by_row else x.stride(1), address_or_zero(weights), address(first),
        address(second), address_or_zero(squares, x.dtype), address_or_zero(fourth, x.dtype), WHITENED, torch.get_num_threads(),
    )  # fmt: skip
    return first, second


def project(x: Tensor, mean: Tensor, root: Tensor, loading: Tensor) -> Tensor | None:
    """(n, k) u B with u = (x − µ)/√v: x (n, d), mean and root √v (d,), loading B (d, k); None where the kernel cannot do it.

    `linalg/factor_model.py` does the same in plain torch.
    """
    n, d = x.shape
    k = loading.shape[-1]
    if not _serves_factors(x, mean, root, loading):
        return None
    out, inverse, loading = x.new_empty((n, k)), root.reciprocal(), loading.contiguous()
    kernels.native.project(
        ITEMSIZE[x.dtype], address(x), x.stride(0), address(mean), address(inverse), address(loading), n, d, k, address(out),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def factor_residuals(
    x: Tensor,
    mean: Tensor,
    root: Tensor,
    loading: Tensor,
    estimate: Tensor,
    squares: Tensor,
    weights: Tensor | None = None,
    totals: bool = True,
) -> tuple[Tensor, ...] | None:
    """Of e = u − B ŵ: squares (n,) += ‖e‖², and the sums Σ w e (d,), Σ w e² (d,), Σ w e ŵᵀ (d, k), or nothing if not `totals`.

    estimate: (n, k) ŵ; the rest as for `project`. None where the kernel cannot do it.
    """
    n, d = x.shape
    k = loading.shape[-1]
    if not _serves_factors(x, mean, root, loading) or not _in_reach(x, estimate, squares, weights):
        return None
    if not (squares.is_contiguous() and (weights is None or weights.is_contiguous())):
        return None
    inverse, loading, estimate = root.reciprocal(), loading.contiguous(), estimate.contiguous()
    sums = (x.new_zeros(d), x.new_zeros(d), x.new_zeros((d, k))) if totals else ()
    kernels.native.factor_residuals(
        ITEMSIZE[x.dtype], address(x), x.stride(0), address(mean), address(inverse), address(loading), n, d, k,
        address(estimate), address_or_zero(weights), address(squares), *([address(t) for t in sums] or (0, 0, 0)),
        torch.get_num_threads(),
    )  # fmt: skip
    return sums


def _serves_factors(x: Tensor, mean: Tensor, root: Tensor, loading: Tensor) -> bool:
    return (
        x.shape[0] > 0
        and mean.ndim == root.ndim == 1
        and loading.ndim == 2
        and limits.kernel_factors(loading.shape[-1])
        and _in_reach(x, mean, root, loading)
        and mean.is_contiguous()
    )
