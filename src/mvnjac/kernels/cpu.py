"""Calls of the C++ kernels with tensors. Each returns False or None if its kernel does not support the tensors."""

from __future__ import annotations

import torch
from torch import Size, Tensor

from mvnjac import kernels
from mvnjac.kernels import ITEMSIZE, PLAIN, WHITENED, limits
from mvnjac.kernels.addresses import address, address_or_zero
from mvnjac.kernels.reference import PackedProduct
from mvnjac.tensors.tracing import intercepted, is_traced, transforming


def _supported(*tensors: Tensor | None) -> bool:
    """Whether these are plain, untraced CPU tensors of one supported dtype with unit stride along the last dimension."""
    given = [t for t in tensors if t is not None]
    dtype = given[0].dtype
    return (
        kernels.native is not None
        and dtype in ITEMSIZE
        and not (transforming() or intercepted() or is_traced(*given))
        and all(type(t) in PLAIN for t in given)
        and all(t.is_cpu and t.dtype == dtype and not t.is_neg() and t.ndim > 0 for t in given)
        and all(t.shape[-1] == 1 or t.stride(-1) == 1 for t in given)
    )


def finite(x: Tensor) -> bool | None:
    """Whether all values are finite; None if the kernel does not support the tensor."""
    if x.numel() == 0 or not _supported(x) or not x.is_contiguous():
        return None
    return bool(kernels.native.finite(ITEMSIZE[x.dtype], address(x), x.numel(), torch.get_num_threads()))


def equals_transpose(A: Tensor) -> bool | None:
    """Whether A (..., d, d) is exactly symmetric; None if the kernel does not support the tensor."""
    if A.numel() == 0 or not _supported(A) or not A.is_contiguous():
        return None
    d, itemsize = A.shape[-1], ITEMSIZE[A.dtype]
    first = address(A)
    return all(kernels.native.symmetric(itemsize, first + k * d * d * itemsize, d) for k in range(A.numel() // (d * d)))


def packed(operands: PackedProduct) -> bool:
    """`reference.packed` into `operands.out`; False if the kernel does not support the operands."""
    left, right, offset, diagonal, out = operands.left, operands.right, operands.offset, operands.diagonal, operands.out
    form, patterns = operands.form, operands.patterns
    n, d = out.shape[0], left.shape[-1]
    if n == 0 or left.shape != (n, d) or right.shape != (n, d) or not _supported(left, right, offset, out, diagonal):
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
    """total (p, p) += Aᵀ diag(w) A for A (n, p), weights (n,); False if not supported, or if BLAS is faster."""
    n, p = A.shape[-2:]
    if A.ndim != 2 or n == 0 or not limits.kernel_products(p) or not _supported(A, weights, total):
        return False
    if weights is not None and not weights.is_contiguous():
        return False
    kernels.native.outer_products(
        ITEMSIZE[A.dtype], address(A), A.stride(0), address_or_zero(weights), n, p, address(total), total.stride(0),
        torch.get_num_threads(),
    )  # fmt: skip
    return True


def hessian(scale_tril: Tensor, first: Tensor, second: Tensor, count: Tensor) -> Tensor | None:
    """The Hessian (p, p) with respect to the mean and the unique elements of Σ; None if the tensors are not supported.

    first: Σ w z (d,); second: Σ w z zᵀ (d, d); count: Σ w.
    """
    d = scale_tril.shape[-1]
    if scale_tril.ndim != 2 or first.ndim != 1 or not limits.kernel_sums(d) or not _supported(first, second) or count.ndim:
        return None
    triangle = scale_tril if scale_tril.stride(-1) == 1 else scale_tril.mT
    if not _supported(first, triangle) or not second.is_contiguous() or first.requires_grad or second.requires_grad:
        return None
    native, itemsize, p = kernels.native, ITEMSIZE[first.dtype], d + d * (d + 1) // 2
    prepared = native.prepare_triangle(itemsize, address(first), address(scale_tril), *scale_tril.stride(), d)
    out = first.new_empty((p, p))
    native.hessian(itemsize, prepared, address(first), address(second), float(count), d, address(out))
    return out


def pairs(A: Tensor, B: Tensor, coefficient: float, out: Tensor) -> bool:
    """The symmetric part of coefficient · Dᵀ (A ⊗ B) D into out, D the duplication matrix: A, B (d, d) symmetric."""
    d = A.shape[-1]
    A, B = (t if t.is_contiguous() else t.mT for t in (A, B))  # equal, since they are symmetric
    if A.ndim != 2 or d == 0 or not _supported(A, B, out) or not (A.is_contiguous() and B.is_contiguous()):
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
    """Σ w z (d,) and Σ w z zᵀ (d, d) of z = L⁻¹(x − µ); None if the kernel does not support the tensors.

    x: (n, d), in row-major or column-major order; mean: (d,); scale_tril: (d, d); weights: (n,).
    squares: (n,), receives ‖z‖²; fourth: (d, d), receives Σ w a² a²ᵀ with a = L⁻ᵀ z (squares of entries).
    """
    n, d = x.shape
    if n == 0 or not limits.kernel_sums(d):
        return None
    by_row = x.is_contiguous()
    if not by_row and x.stride(1) < n:  # overlapping columns, of an expanded tensor
        return None
    triangle = scale_tril if scale_tril.stride(-1) == 1 else scale_tril.mT
    if (
        not _supported(x if by_row else x.mT, mean, triangle, weights, fourth)
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
    """(n, k) u B with u = (x − µ)/√v; None if the kernel does not support the tensors.

    x: (n, d); mean: (d,); root: √v (d,); loading: B (d, k). `linalg/factor_model.py` has the same in plain torch.
    """
    n, d = x.shape
    k = loading.shape[-1]
    if not _supports_factors(x, mean, root, loading):
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
    """For e = u − B ŵ: squares (n,) += ‖e‖², and returns Σ w e (d,), Σ w e² (d,), Σ w e ŵᵀ (d, k); () if not `totals`.

    estimate: ŵ (n, k); the other arguments as for `project`. None if the kernel does not support the tensors.
    """
    n, d = x.shape
    k = loading.shape[-1]
    if not _supports_factors(x, mean, root, loading) or not _supported(x, estimate, squares, weights):
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


def _supports_factors(x: Tensor, mean: Tensor, root: Tensor, loading: Tensor) -> bool:
    return (
        x.shape[0] > 0
        and mean.ndim == root.ndim == 1
        and loading.ndim == 2
        and limits.kernel_factors(loading.shape[-1])
        and _supported(x, mean, root, loading)
        and mean.is_contiguous()
    )
