"""The GPU kernels: the share of the memory bandwidth that they use, relative to a copy on the same GPU in the same run.

    python benchmarks/gpu.py

Needs a GPU and triton. The results of each kernel are compared with its reference before it is timed. Times are medians, with an empty
L2 cache before each call (`triton.testing.do_bench`). "copy" is the bandwidth of reads and writes, relative to that of a copy;
"torch" is the time of plain torch divided by that of the kernel.

    packed   derivatives with respect to Σ, written to columns of the n×p matrix
    small    value and all gradients, with checks of the values, as in `jacobian(x, mean, covariance)`
    value    the same without the gradients with respect to Σ, as in `log_prob`
    library  `jacobian(x, mean, covariance).sum()`, including the work of the host and one synchronisation
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

import mvnjac
from mvnjac.blocks.outer import Outer
from mvnjac.kernels import cuda, reference
from mvnjac.kernels.reference import Form, Gaussians
from mvnjac.parameters.checks import SYMMETRY
from mvnjac.parameters.coordinates import symmetric

#: (n, d); the matrix of the last one has more than 2³¹ elements
PACKED = [
    (1000, 3),
    (1_000_000, 3),
    (100_000, 10),
    (1_000_000, 10),
    (10_000, 50),
    (100_000, 50),
    (2000, 200),
    (200, 1000),
    (5000, 1000),
]
SMALL = [(100_000, 3), (1_000_000, 3), (10_000, 10), (100_000, 10), (1000, 50), (10_000, 50), (10_000, 64)]
COPIED = 2**30  # bytes

T = TypeVar("T")
Clock = Callable[[Callable[[], object]], float]


def clock(call: Callable[[], object]) -> float:
    """The milliseconds of a call on the current device."""
    from triton.testing import do_bench

    return float(do_bench(call, warmup=50, rep=300, return_mode="median"))


def bandwidth(device: torch.device, time: Clock, size: int = COPIED) -> float:
    """The bandwidth of a copy in GB/s, reads and writes together."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / time(lambda: target.copy_(source)) / 1e6


def packed(n: int, d: int, dtype: torch.dtype, device: torch.device, time: Clock, copy: float) -> str:
    """Derivatives with respect to Σ, written to the columns after those of the mean, as in `Jacobian.matrix`."""
    p, generator = d * (d + 1) // 2, torch.Generator(device).manual_seed(n + d)
    a = torch.randn(n, d, dtype=dtype, device=device, generator=generator)
    half = torch.randn(d, d, dtype=dtype, device=device, generator=generator)
    matrix, coordinates, form = torch.empty(n, d + p, dtype=dtype, device=device), symmetric(d), Form(0.5)
    out, offset = matrix[:, d:], coordinates.pack_gradient(half + half.mT)
    cuda.packed(a, a, offset, out, form)
    step = max(n // 7, 1)
    for first in {
        *range(0, n, step),
        n - 1,
    }:  # compare some rows, including the last; two full matrices may not fit into memory
        row = slice(first, first + 1)
        compare(out[row], reference.packed(a[row], a[row], offset, torch.empty_like(out[row]), form))
    seconds = time(lambda: cuda.packed(a, a, offset, out, form))
    moved = (out.numel() + a.numel() + offset.numel()) * dtype.itemsize
    block = Outer(a, a, half + half.mT, coordinates, 0.5)
    return line("packed", n, d, dtype, seconds, moved, copy, time(lambda: without_triton(lambda: block.unique(out))))


def small(count: int, d: int, dtype: torch.dtype, device: torch.device, time: Clock, copy: float) -> Iterator[str]:
    """Value and gradients of many Gaussians with separate Σ: the kernel, and the library function."""
    generator = torch.Generator(device).manual_seed(count + d)
    A = torch.randn(count, d, 2 * d, dtype=dtype, device=device, generator=generator)
    covariance = A @ A.mT / (2 * d)
    x, mean, covariance = A[:, :, 0].contiguous(), A[:, :, 1].contiguous(), 0.5 * (covariance + covariance.mT)
    for name, gradient in (("small", True), ("value", False)):

        def by(kernel: Callable[..., Gaussians], gradient: bool = gradient) -> Gaussians:
            return kernel(x, mean, covariance, gradient=gradient, symmetry=SYMMETRY[dtype])

        values = by(cuda.small_gaussians)
        for actual, other in zip(values, by(reference.small_gaussians), strict=True):
            if actual is not None:
                compare(actual, other)
        seconds = time(lambda: by(cuda.small_gaussians))
        moved = sum(t.numel() * t.element_size() for t in (x, mean, covariance, *values) if t is not None)
        yield line(name, count, d, dtype, seconds, moved, copy, time(lambda: by(reference.small_gaussians)))

    def library() -> dict[str, torch.Tensor]:
        return mvnjac.jacobian(x, mean, covariance).sum()

    compare(library()["covariance_matrix"], reference.small_gaussians(x, mean, covariance).gradient)
    moved = sum(t.numel() * t.element_size() for t in (x, mean, covariance, *library().values()))
    yield line("library", count, d, dtype, time(library), moved, copy, time(lambda: without_triton(library)))


def without_triton(call: Callable[[], T]) -> T:
    """A call without Triton kernels."""
    available, cuda.available = cuda.available, lambda *_: False
    try:
        return call()
    finally:
        cuda.available = available


def compare(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Require that a kernel gives the result of its reference."""
    if actual.dtype is torch.int32:
        assert torch.equal(actual, expected)
        return
    error = (actual - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e5 * torch.finfo(actual.dtype).eps, f"relative error {float(error):.3g}"


def line(name: str, n: int, d: int, dtype: torch.dtype, milliseconds: float, moved: int, copy: float, torchs: float) -> str:
    share, precision = moved / milliseconds / 1e6 / copy, str(dtype).removeprefix("torch.")
    size = f"({n}, {d})"
    return (
        f"{name:7} {size:>15} {precision}  {milliseconds:9.4f} ms  {moved / 1e6:10.2f} MB  "
        f"copy {share:6.1%}  torch {torchs / milliseconds:6.1f}"
    )


def lines(device: torch.device, time: Clock, free: int, copied: int = COPIED) -> Iterator[str]:
    """All measurements, on a GPU with this many free bytes."""
    copy = bandwidth(device, time, copied)
    yield f"copy of {copied / 1e6:.0f} MB: {copy:.0f} GB/s"
    for dtype in (torch.float64, torch.float32):
        for n, d in PACKED:
            if 3 * n * d * (d + 1) // 2 * dtype.itemsize < 2 * free:
                yield packed(n, d, dtype, device, time, copy)
            else:
                yield f"packed  {f'({n}, {d})':>15} does not fit"
        for count, d in SMALL:
            yield from small(count, d, dtype, device, time, copy)


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py measures GPU kernels, but torch finds no GPU.")
    device = torch.device("cuda", torch.cuda.current_device())
    if not cuda.available(torch.empty(0, device=device)):
        sys.exit(f"benchmarks/gpu.py measures Triton kernels, which are not available: {cuda.why_not()}.")
    import triton

    card = torch.cuda.get_device_properties(device)
    print(f"{card.name}, {card.multi_processor_count} multiprocessors, {card.total_memory / 2**30:.0f} GiB")
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, triton {triton.__version__}")
    for text in lines(device, clock, torch.cuda.mem_get_info(device)[0]):
        print(text, flush=True)


if __name__ == "__main__":
    main()
