"""The derivative of n log-densities with respect to one parameter, represented by n·d values.

A block represents an array of shape (*batch, *parameter shape). On demand it forms the full array (`full`), the partial
derivatives with respect to the unique elements (`unique`), some entries, the weighted sum over rows (`total`) and the product
with a direction (`matvec`). Dense parametrisations need two kinds of blocks: explicit entries (`Entrywise`), and an outer
product plus a constant (`outer.Outer`). If no autograd graph, transform or compiler is active, the same formulas write into
given memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import EllipsisType

from torch import Size, Tensor

from mvnjac.parameters.coordinates import Coordinates
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast, over_event, sum_to
from mvnjac.tensors.tracing import is_traced


class Block(ABC):
    """The derivative with respect to one parameter, with leading dimensions `batch` and the parameter's `coordinates`."""

    batch: Size
    coordinates: Coordinates

    @abstractmethod
    def full(self) -> Tensor:
        """(*batch, *shape): the full gradient of each row; 0 in entries that cannot vary."""

    @abstractmethod
    def unique(self, out: Tensor | None = None) -> Tensor:
        """(*batch, size): the partial derivatives with respect to the unique elements, written into `out` if given."""

    @abstractmethod
    def entries(self, positions: Tensor) -> Tensor:
        """(*batch, m): the full gradient at these row-major positions."""

    @abstractmethod
    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        """The part of the (weighted) sum that depends on the rows, to be added over chunks and passed to `complete`."""

    @abstractmethod
    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        """(*param_batch, *shape): the sum of the full gradients, from the accumulated `partial` results."""

    def weighted(self, weights: Tensor | None) -> Tensor:
        """(*batch, *shape): the full gradients multiplied by weights."""
        full = self.full()
        if weights is None:
            return full
        factor = over_event(weights, len(self.coordinates.shape))
        return full * factor if is_traced(full, weights) else full.mul_(factor)

    def total(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        """(*param_batch, *shape): the (weighted) sum of the full gradients over the rows."""
        return self.complete(self.partial(weights, param_batch), param_batch)

    @abstractmethod
    def matvec(self, direction: Tensor) -> Tensor:
        """(*batch): the inner product of each row's full gradient with `direction` (..., *shape)."""

    def elements(self, coordinates: Coordinates, index: Tensor) -> Tensor:
        """(*batch, m): the partial derivatives with respect to some elements of these coordinates."""
        positions = coordinates.positions(index.device)[index]
        entries, multiplicity = self.entries(positions), coordinates.multiplicity(positions)
        return entries if multiplicity is None else entries * multiplicity


class MatrixBlock(Block):
    """The derivative with respect to a matrix: products of vectors of each row, plus an offset shared by the rows."""

    offset: Tensor

    def _layout(self, param_batch: Size) -> RowLayout:
        return RowLayout(self.batch, broadcast(param_batch, batch_shape(self.offset, 2)))

    def _row_chunks(self, step: int) -> Iterator[slice | EllipsisType]:
        """Chunks of `step` rows in the common case of one row dimension and one offset; else all rows at once."""
        if len(self.batch) != 1 or self.offset.ndim != 2:
            yield ...
            return
        for start in range(0, self.batch[0], step):
            yield slice(start, start + step)

    def _product_and_count(self, partial: tuple[Tensor, ...], param_batch: Size) -> tuple[Tensor, Tensor]:
        """The accumulated products (..., m, k), and the number of rows or the sum of weights (..., 1, 1)."""
        layout, (product, count) = self._layout(param_batch), partial
        count = layout.unfold_params(count, 0) if count.ndim else count
        return layout.unfold_params(product, 2), over_event(count, 2)


@dataclass(eq=False)
class Entrywise(Block):
    """A derivative with explicit entries, with respect to a vector or a scalar. values: (*batch, *shape)."""

    values: Tensor
    coordinates: Coordinates

    @property
    def batch(self) -> Size:  # type: ignore[override]
        return batch_shape(self.values, len(self.coordinates.shape))

    def full(self) -> Tensor:
        return self.values.clone()  # a copy, since the values may be the residuals themselves

    def unique(self, out: Tensor | None = None) -> Tensor:
        packed = self.coordinates.pack(self.values)
        return packed if out is None else out.copy_(packed)

    def entries(self, positions: Tensor) -> Tensor:
        return self.coordinates.all_entries().pack(self.values)[..., positions]

    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        event = len(self.coordinates.shape)
        values = self.values if weights is None else self.values * over_event(weights, event)
        total = sum_to(values, param_batch, event)
        return (values.clone() if total is values else total,)

    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        return partial[0]

    def matvec(self, direction: Tensor) -> Tensor:
        event = len(self.coordinates.shape)
        product = self.values * direction
        return product.sum(tuple(range(-event, 0))) if event else product
