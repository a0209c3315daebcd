"""The packed derivative by whichever kernel serves: compiled on the CPU, Triton on a GPU."""

from __future__ import annotations

from torch import Tensor

from mvnjac.kernels import cpu, cuda
from mvnjac.kernels.reference import Form, Patterns


def packed(
    left: Tensor,
    right: Tensor,
    offset: Tensor,
    out: Tensor,
    form: Form,
    diagonal: Tensor | None = None,
    patterns: Patterns | None = None,
) -> bool:
    """`reference.packed` into `out`; False where no kernel serves these tensors."""
    if cuda.available(out, left):
        cuda.packed(left, right, offset, out, form, diagonal, patterns)
        return True
    return cpu.packed(left, right, offset, out, form, diagonal, patterns)
