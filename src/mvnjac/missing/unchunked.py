"""Blocks whose totals are formed for all rows at once, which rows with missing entries have."""

from __future__ import annotations

from torch import Size, Tensor

from mvnjac.blocks.base import Block
from mvnjac.tensors.broadcasting import sum_to


class UnchunkedBlock(Block):
    """A block that implements `total` itself, instead of sums over chunks of rows (`partial`, `complete`)."""

    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        return (self.total(weights, param_batch),)

    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        return partial[0]

    def _total_of_full(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        """`total`, from the full gradients of all rows."""
        return sum_to(self.weighted(weights), param_batch, len(self.coordinates.shape))

    def _matvec_of_full(self, direction: Tensor) -> Tensor:
        """`matvec`, from the full gradients of all rows."""
        product = self.full() * direction
        return product.sum(tuple(range(-len(self.coordinates.shape), 0))) if self.coordinates.shape else product


def reduces_to(batch: Size, param_batch: Size) -> bool:
    """Whether an array with the leading dimensions `batch` can be summed down to `param_batch`."""
    return len(param_batch) <= len(batch) and all(
        size in (1, larger) for size, larger in zip(reversed(param_batch), reversed(batch), strict=False)
    )
