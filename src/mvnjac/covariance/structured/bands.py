"""The bands of a symmetric matrix as a parameter: its coordinates, and the check for positive definiteness."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mvnjac.errors import MvnjacError, NotPositiveDefiniteError
from mvnjac.linalg.banded import without_padding
from mvnjac.linalg.padding import pad
from mvnjac.parameters.checks import Check, NameOf, of_batch
from mvnjac.parameters.coordinates import Coordinates


class Bands(Coordinates):
    """The bands (b + 1, d) of a symmetric d×d matrix A: entry [k, j] is A[j + k, j]; the last k entries of row k are padding.

    The unique elements are the entries without the padding, row-major, with the names of the corresponding elements of A. An
    entry below the diagonal occurs twice in A, but once in the parameter, so that its derivative is not doubled.
    """

    def __init__(self, bandwidth: int, d: int) -> None:
        super().__init__((bandwidth + 1, d), (1,))
        self.bandwidth, self.d = bandwidth, d

    @property
    def size(self) -> int:
        return sum(self._lengths())

    def positions(self, device: torch.device | None = None) -> Tensor:
        rows = [torch.arange(length, dtype=torch.long, device=device) + k * self.d for k, length in enumerate(self._lengths())]
        return torch.cat(rows)

    def free(self, positions: Tensor) -> Tensor | None:
        return positions // self.d + positions % self.d < self.d

    def project(self, full: Tensor) -> Tensor:
        return without_padding(full)

    def pack(self, full: Tensor) -> Tensor:
        return torch.cat([full[..., k, :length] for k, length in enumerate(self._lengths())], -1)

    def unpack(self, vector: Tensor) -> Tensor:
        rows = vector.split(self._lengths(), -1)
        return torch.stack([pad(row, (0, k)) for k, row in enumerate(rows)], -2)

    def variables(self, index: Sequence[int]) -> list[int]:
        k, j = index
        return [j + k, j]

    def _lengths(self) -> list[int]:
        return [self.d - k for k in range(self.bandwidth + 1)]

    def axis_labels(self, axis: int, names: Sequence[str] | None) -> list[str]:
        return [str(i) for i in range(self.d)] if names is None else list(names)

    def indices(self) -> list[tuple[int, ...]]:
        return [(j + k, j) for k, length in enumerate(self._lengths()) for j in range(length)]

    def _rank(self, index: tuple[int, ...]) -> int | None:
        row, column = max(index), min(index)  # the order of the two variables does not matter
        k = row - column
        return sum(self._lengths()[:k]) + column if k <= self.bandwidth else None


def definite_bands(name: str, bands: Tensor, log_det: Tensor, log_det_of: Callable[[Tensor], Tensor]) -> Check:
    """The factorisation of a banded matrix A, bands[..., k, j] = A[j + k, j], succeeded.

    log_det: (*batch) NaN where it failed.
    log_det_of: the same for other bands, to find the first leading minor that is not positive.
    """
    bad = log_det.detach().isnan()

    def explain(function: str, name_of: NameOf) -> MvnjacError | None:
        batch = bad.nonzero()[0].tolist()
        A = bands.detach()[tuple(batch)]
        b, d = A.shape[0] - 1, A.shape[1]
        pivot = bisect.bisect_left(range(1, d), True, key=lambda size: bool(log_det_of(A[:, :size]).isnan()))
        diagonal = A[0, pivot].item()
        cause = (
            f"Its diagonal entry is {diagonal!r}; it must be positive."
            if diagonal <= 0
            else f"{name}[0,{pivot}] = {diagonal!r} is too small compared to the entries that couple it to "
            f"{', '.join(name_of(i) for i in range(max(pivot - b, 0), pivot)) or 'nothing'}; increase it, or reduce these."
        )
        return NotPositiveDefiniteError(
            f"{function}: {name} is not positive definite{of_batch(batch)}: the Cholesky pivot of {name_of(pivot)} "
            f"(pivot {pivot + 1} of {d}) is not positive. {cause} No jitter is added here."
        )

    return Check(~bad.any(), explain)
