"""The packed derivative with respect to a matrix on a GPU: `reference.packed` in one pass that writes each element once.

A program computes a block of packed elements, of one row or of several short rows, and then the same block of following rows:
the row and column of each element and the shared offset are computed once. Adjacent threads write adjacent elements. Tiles are
one-dimensional, since for two-dimensional tiles the compiler passes each operand through shared memory. This module is
imported only where a kernel is launched, since triton is optional.
"""

from __future__ import annotations

import subprocess

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from mvnjac.kernels.reference import PackedProduct

#: elements of a tile; tiles of a program, if at least this many programs remain (else one tile)
_TILE, _STEPS, _MIN_PROGRAMS = 512, 16, 1024
#: errors raised by Triton, the compiler of its launchers, or the driver if they do not work
FAILURES = (TritonError, RuntimeError, OSError, ImportError, subprocess.SubprocessError)


@triton.jit
def _one(out):
    tl.store(out, 1.0)


def probe(device: torch.device) -> None:
    """Compile and launch a minimal kernel on this device, which must be the current one; raises if Triton does not work."""
    _one[(1,)](torch.empty(1, dtype=torch.float32, device=device))


@triton.jit
def _row_and_column(k, d, STRICT: tl.constexpr):
    """Row and column of the packed element k: the lower triangle of a d×d matrix, column by column.

    Column j starts at f(j) = j (2 s + 1 − j) / 2, where s is the length of the first column. j is the rounded-down root of
    f(j) = k, corrected by at most one for rounding. In float64 this is exact for every d whose matrix can be addressed.
    """
    s = tl.full((), d - 1 if STRICT else d, tl.int64)
    b = 2 * s + 1
    root = tl.sqrt((b * b - 8 * k).to(tl.float64))
    j = ((b.to(tl.float64) - root) * 0.5).to(tl.int64)
    j = tl.where(j * (b - j) // 2 > k, j - 1, j)
    j = tl.where((j + 1) * (b - j - 1) // 2 <= k, j + 1, j)
    i = k - j * (b - j) // 2 + j
    return (i + 1 if STRICT else i), j


@triton.jit
def _packed(
    out, left, right, offset, diagonal, pattern, observed, any_observed,
    n, d, p, blocks,
    out_stride, left_stride, right_stride, offset_stride, diagonal_stride, observed_stride,
    COEFFICIENT: tl.constexpr, BOTH: tl.constexpr, MIRRORED: tl.constexpr, STRICT: tl.constexpr,
    HAS_DIAGONAL: tl.constexpr, SHARED: tl.constexpr, HAS_PATTERNS: tl.constexpr, BY_ROW: tl.constexpr, BY_COLUMN: tl.constexpr,
    ROWS: tl.constexpr, ELEMENTS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    program, lane = tl.program_id(0), tl.arange(0, ROWS * ELEMENTS)
    k = (program % blocks).to(tl.int64) * ELEMENTS + lane % ELEMENTS
    inside = k < p
    i, j = _row_and_column(tl.where(inside, k, 0), d, STRICT)
    row = (program // blocks).to(tl.int64) * (ROWS * STEPS) + lane // ELEMENTS
    dtype = left.dtype.element_ty
    factor = tl.full((ROWS * ELEMENTS,), COEFFICIENT, dtype)
    if MIRRORED:
        factor = tl.where(i == j, factor, 2 * factor)
    if SHARED:
        constant = tl.load(offset + k, mask=inside, other=0)
    for _ in range(STEPS):
        mask = inside & (row < n)
        to_left, to_right = left + row * left_stride, right + row * right_stride
        value = tl.load(to_left + i, mask=mask, other=0) * factor * tl.load(to_right + j, mask=mask, other=0)
        if BOTH:
            value += tl.load(to_right + i, mask=mask, other=0) * factor * tl.load(to_left + j, mask=mask, other=0)
        if HAS_DIAGONAL:
            value *= tl.load(diagonal + row * diagonal_stride + i, mask=mask & (i == j), other=1)
        if SHARED:
            value += constant
        elif HAS_PATTERNS:
            value += tl.load(offset + tl.load(pattern + row, mask=mask, other=0) * offset_stride + k, mask=mask, other=0)
        else:
            value += tl.load(offset + row * offset_stride + k, mask=mask, other=0)
        if HAS_PATTERNS:
            value *= tl.load(any_observed + row, mask=mask, other=0).to(dtype)
            if BY_ROW:
                value *= tl.load(observed + row * observed_stride + i, mask=mask, other=0).to(dtype)
            if BY_COLUMN:
                value *= tl.load(observed + row * observed_stride + j, mask=mask, other=0).to(dtype)
        tl.store(out + row * out_stride + k, value, mask=mask)
        row += ROWS


def packed(operands: PackedProduct) -> Tensor:
    """`reference.packed`, in one kernel. `out` may be float32 if the other operands are float64."""
    out, form, patterns = operands.out, operands.form, operands.patterns
    n, d = operands.left.shape
    p = form.size(d)
    if out.numel() == 0:
        return out
    left, right, offset, out_rows = _rows(operands.left), _rows(operands.right), _rows(operands.offset), out
    diagonal = None if operands.diagonal is None else _rows(operands.diagonal)
    if out.stride(-1) != 1:
        out_rows = torch.empty(out.shape, dtype=out.dtype, device=out.device)
    elements = min(triton.next_power_of_2(p), _TILE)
    rows, blocks, shared = _TILE // elements, triton.cdiv(p, elements), offset.ndim == 1
    steps = _STEPS if blocks * triton.cdiv(n, rows * _STEPS) >= _MIN_PROGRAMS else 1
    pattern = observed = any_observed = None
    if patterns is not None:
        pattern, observed = patterns.pattern.contiguous(), _rows(patterns.observed)
        any_observed = observed.any(-1)
    _packed[(blocks * triton.cdiv(n, rows * steps),)](
        out_rows, left, right, offset, diagonal, pattern, observed, any_observed,
        n, d, p, blocks,
        out_rows.stride(0), left.stride(0), right.stride(0), 0 if shared else offset.stride(0),
        0 if diagonal is None or diagonal.ndim == 1 else diagonal.stride(0), 0 if observed is None else observed.stride(0),
        COEFFICIENT=form.coefficient, BOTH=form.both, MIRRORED=form.mirrored, STRICT=form.strict,
        HAS_DIAGONAL=diagonal is not None, SHARED=shared, HAS_PATTERNS=patterns is not None,
        BY_ROW=patterns is not None and patterns.by_row, BY_COLUMN=patterns is not None and patterns.by_column,
        ROWS=rows, ELEMENTS=elements, STEPS=steps,
    )  # fmt: skip
    return out if out_rows is out else out.copy_(out_rows)


def _rows(t: Tensor) -> Tensor:
    """The tensor with unit stride along its last dimension and without a pending negation."""
    t = t.resolve_neg()
    return t if t.stride(-1) == 1 else t.contiguous()
