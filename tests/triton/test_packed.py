"""The Triton kernel of the packed derivative against its reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from mvnjac.kernels import reference, triton_packed
from mvnjac.kernels.reference import Form, PackedProduct, Patterns
from tests.kernels.test_kernel_references import FORMS, normal
from tests.support.tolerance import assert_close

DTYPES = [torch.float64, torch.float32]
GUARD = 7.0  # the values around `out`, which must not change


def far(size: int, folder: Path, device: torch.device) -> Tensor:
    """This many float32 values; on the CPU in a sparse file, so that only those written take memory."""
    if device.type != "cpu":
        return torch.empty(size, device=device)
    return torch.from_file(str(folder / "far"), shared=True, size=size)


class Guarded:
    """An `out` surrounded by guard values: before and after it, and between its rows."""

    def __init__(self, n: int, p: int, beside: int, dtype: torch.dtype, device: torch.device) -> None:
        self.memory = torch.full(((n + 2) * (p + beside) + 2 * beside,), GUARD, dtype=dtype, device=device)
        self.out = self.memory.as_strided((n, p), (p + beside, 1), p + 2 * beside)

    def require_untouched(self) -> None:
        self.out.fill_(GUARD)
        assert bool((self.memory == GUARD).all())


def require_same(
    left: Tensor,
    right: Tensor,
    offset: Tensor,
    form: Form,
    diagonal: Tensor | None = None,
    patterns: Patterns | None = None,
    beside: int = 3,
    result: torch.dtype | None = None,
) -> None:
    n, d = left.shape
    guarded = Guarded(n, form.size(d), beside, result or left.dtype, left.device)
    operands = PackedProduct(left, right, offset, guarded.out, form, diagonal, patterns)
    actual = triton_packed.packed(operands)
    assert actual is guarded.out
    expected = reference.packed(replace(operands, out=torch.empty_like(guarded.out)))
    assert_close(actual, expected, 1.0)
    guarded.require_untouched()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("n", "d"),
    [
        *((n, d) for d in (1, 2, 3, 10, 31, 33) for n in (0, 1, 2, 17, 130)),
        *((n, d) for d in (64, 65, 100) for n in (0, 1, 7)),
    ],
)
def test_symmetric(n: int, d: int, dtype: torch.dtype, device: torch.device) -> None:
    a, offset = normal(n, d, seed=1, dtype=dtype).to(device), normal(d * (d + 1) // 2, seed=2, dtype=dtype).to(device)
    require_same(a, a, offset, Form(0.5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("n", "d"), [(5, 1), (7, 2), (33, 3), (9, 33)])
def test_forms(n: int, d: int, form: Form, dtype: torch.dtype, device: torch.device) -> None:
    p = form.size(d)
    left, right, diagonal, offset, offsets = (
        normal(*shape, seed=seed, dtype=dtype).to(device) for seed, shape in enumerate([(n, d), (n, d), (n, d), (p,), (n, p)])
    )
    require_same(left, right, offset, form)
    require_same(left, right, offset, form, diagonal[0])
    require_same(left, right, offsets, form, diagonal)
    require_same(left, right, offset.expand(n, p), form, diagonal[:1].expand(n, d), beside=0)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1023, 1025, 20_000])
def test_rows_beyond_one_program(n: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rows, several per tile, and so many that a program computes more than one tile."""
    monkeypatch.setattr(triton_packed, "_MIN_PROGRAMS", 10)
    left, right, offset = normal(n, 3, seed=1).to(device), normal(n, 3, seed=2).to(device), normal(6, seed=3).to(device)
    require_same(left, right, offset, Form(0.5))


def test_long_rows_in_many_steps(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one row, and so many that a program computes several tiles, the last ones beyond the end."""
    monkeypatch.setattr(triton_packed, "_MIN_PROGRAMS", 1)
    a, offset = normal(17, 50, seed=1, dtype=torch.float32).to(device), normal(1275, seed=2, dtype=torch.float32).to(device)
    require_same(a, a, offset, Form(0.5))


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_patterns(form: Form, by_row: bool, by_column: bool, device: torch.device) -> None:
    n, d = 37, 5
    generator = torch.Generator().manual_seed(1)
    observed = (torch.rand(n, d, generator=generator) < 0.6).to(device)
    observed[3] = False
    pattern = torch.randint(4, (n,), generator=generator).to(device)
    left, right, offset = (normal(*shape, seed=4).to(device) for shape in [(n, d), (n, d), (4, form.size(d))])
    require_same(left, right, offset, form, normal(d, seed=5).to(device), Patterns(pattern, observed, by_row, by_column))


def test_any_strides(device: torch.device) -> None:
    n, d = 9, 4
    wide, columns = normal(n, 3 * d, seed=1).to(device), normal(d, n, seed=2).to(device)
    offset = normal(20, seed=3).to(device)[::2]
    require_same(wide[:, 2 : 2 + d], columns.mT, offset, Form(0.5))
    require_same(wide[:1, :d].expand(n, d), wide[:, d : 2 * d], offset, Form(0.5))
    transposed = torch.empty(10, n, dtype=torch.float64, device=device).mT
    operands = PackedProduct(wide[:, :d], wide[:, :d], offset, transposed, Form(0.5))
    actual = triton_packed.packed(operands)
    assert actual is transposed
    assert_close(actual, reference.packed(replace(operands, out=torch.empty_like(transposed))), 1.0)


def test_tensors_with_the_negative_bit(device: torch.device) -> None:
    """The imaginary part of a conjugate is a view whose values in memory have the opposite sign."""
    left, right, offset = (torch.complex(*normal(2, *shape, seed=1).to(device)).conj().imag for shape in [(4, 3), (4, 3), (6,)])
    assert left.is_neg()
    assert offset.is_neg()
    require_same(left, right, offset, Form(0.5))


def test_large_offsets(device: torch.device, tmp_path: Path) -> None:
    """Strides that fit in 32 bits, while the offset of the last row does not."""
    near, apart = normal(3, 3, seed=1, dtype=torch.float32), 2**30 + 8
    memory = far(2 * apart + 16, tmp_path, device)
    a, out = memory.as_strided((3, 3), (apart, 1)), memory.as_strided((3, 6), (apart, 1), 4)
    a.copy_(near)
    offset = normal(6, seed=2, dtype=torch.float32).to(device)
    triton_packed.packed(PackedProduct(a, a, offset, out, Form(0.5)))
    near = near.to(device)
    assert_close(out, reference.packed(PackedProduct(near, near, offset, torch.empty_like(out), Form(0.5))), 1.0)


def test_float64_rounded_once(device: torch.device) -> None:
    """Arithmetic in float64, results in float32."""
    a, offset = normal(11, 6, seed=1).to(device), normal(21, seed=2).to(device)
    out = torch.empty(11, 21, dtype=torch.float32, device=device)
    operands = PackedProduct(a, a, offset, out, Form(0.5))
    triton_packed.packed(operands)
    exact = reference.packed(replace(operands, out=torch.empty_like(out, dtype=torch.float64)))
    assert bool(((out.double() - exact).abs() <= torch.finfo(torch.float32).eps / 2 * exact.abs()).all())


@triton.jit
def _rows_and_columns(k, rows, columns, d, count, STRICT: tl.constexpr, SIZE: tl.constexpr):
    lane = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    i, j = triton_packed._row_and_column(tl.load(k + lane, mask=lane < count, other=0), d, STRICT)
    tl.store(rows + lane, i, mask=lane < count)
    tl.store(columns + lane, j, mask=lane < count)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("d", [2, 3, 64, 65, 1000, 70_000, 2_000_000, 2**30])
def test_rows_and_columns_are_exact(d: int, strict: bool, device: torch.device) -> None:
    """Around the ends of columns, also for more than 2³² packed elements (d = 70 000)."""
    length = d - 1 if strict else d
    tested = [c for c in (*range(7), length // 3, length // 2, length - 2, length - 1) if 0 <= c < length]
    expected = []
    for column in sorted(set(tested)):
        first = column * length - column * (column - 1) // 2
        for below in sorted({b for b in (0, 1, 2, length - column - 2, length - column - 1) if 0 <= b < length - column}):
            expected.append((first + below, column + below + strict, column))
    k, i, j = torch.tensor(expected, device=device).mT.contiguous()
    rows, columns = torch.empty_like(k), torch.empty_like(k)
    _rows_and_columns[(triton.cdiv(len(k), 64),)](k, rows, columns, d, len(k), STRICT=strict, SIZE=64)
    assert rows.tolist() == i.tolist()
    assert columns.tolist() == j.tolist()
