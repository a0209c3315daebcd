"""What the derivative of n log-densities by one parameter is, without being stored: n·d numbers and its products.

A block stands for an array of shape (*batch, *parameter shape). It gives, only when asked: all of it (`full`), the partial
derivatives by the unique elements (`unique`), some entries, the weighted sum over rows (`total`), and the product with a
direction (`matvec`). Two kinds suffice for the dense family: entries that are known as such, and an outer product plus a
constant. Where nothing watches (no autograd, no transform) the same formulas write into given memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Size, Tensor

from mvnjac.parameters.coordinates import Coordinates
from mvnjac.tensors.broadcasting import batch_shape, over_event, sum_to
from mvnjac.tensors.tracing import is_traced


class Block(ABC):
    """The derivative by one parameter; `batch` are its leading dimensions, `coordinates` the parameter's."""

    batch: Size
    coordinates: Coordinates

    @abstractmethod
    def full(self) -> Tensor:
        """(*batch, *shape): the full gradient, one a row; 0 where the parameter has no freedom."""

    @abstractmethod
    def unique(self, out: Tensor | None = None) -> Tensor:
        """(*batch, size): the partial derivatives by the unique elements, written into `out` if given."""

    @abstractmethod
    def entries(self, positions: Tensor) -> Tensor:
        """(*batch, m): the full gradient at these row-major positions."""

    @abstractmethod
    def partial(self, weights: Tensor | None, param_batch: Size) -> tuple[Tensor, ...]:
        """What of the (weighted) sum over rows depends on the rows: to be added up over chunks of them, then completed."""

    @abstractmethod
    def complete(self, partial: tuple[Tensor, ...], param_batch: Size) -> Tensor:
        """(*param_batch, *shape): the sum of the full gradients down to the batch `param_batch`, from the added-up partial sums."""

    def weighted(self, weights: Tensor | None) -> Tensor:
        """(*batch, *shape): the full gradients, each times its weight."""
        full = self.full()
        if weights is None:
            return full
        factor = over_event(weights, len(self.coordinates.shape))
        return full * factor if is_traced(full, weights) else full.mul_(factor)

    def total(self, weights: Tensor | None, param_batch: Size) -> Tensor:
        """(*param_batch, *shape): the (weighted) sum of the full gradients down to the batch `param_batch`."""
        return self.complete(self.partial(weights, param_batch), param_batch)

    @abstractmethod
    def matvec(self, direction: Tensor) -> Tensor:
        """(*batch): the inner product of each row's full gradient with `direction` (*any batch, *shape)."""

    def elements(self, coordinates: Coordinates, index: Tensor) -> Tensor:
        """(*batch, m): the partial derivatives by some elements, in these coordinates."""
        positions = coordinates.positions(index.device)[index]
        entries, multiplicity = self.entries(positions), coordinates.multiplicity(positions)
        return entries if multiplicity is None else entries * multiplicity


@dataclass(eq=False)
class Entrywise(Block):
    """A derivative whose entries are known one by one: by a vector or a scalar. values: (*batch, *shape)."""

    values: Tensor
    coordinates: Coordinates

    @property
    def batch(self) -> Size:  # type: ignore[override]
        return batch_shape(self.values, len(self.coordinates.shape))

    def full(self) -> Tensor:
        return self.values.clone()  # they may be the residuals themselves, which others are formed from

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
