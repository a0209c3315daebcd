"""Linear maps of parameters as maps of columns: vectors (..., p) over the unique elements of the selected parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Size, Tensor

from mvnjac.covariance.parametrisation import Values
from mvnjac.information.curvature import Curvature
from mvnjac.parameters.selection import Part, Selection
from mvnjac.tensors.tracing import in_jit_trace

#: maps changes of parameters to full gradients, or full gradients to changes, by name
ParameterMap = Callable[[Values], dict[str, Tensor]]
#: bytes of the temporary arrays of the products that are formed at a time
_CHUNK_BYTES = 64 * 2**20
#: arrays of the size of a chunk that are alive at once, measured
_IN_CHUNK = 3


class ColumnMaps:
    """Applies maps of parameters to vectors of their unique elements.

    Args:
        selection: the parameters, or elements of them, that are the columns.
        batch: the leading dimensions of the maps: one p×p matrix for each entry.
        curvature: the implementation behind the maps.
        dtype, device: of the computation.
    """

    def __init__(
        self, selection: Selection, batch: Size, curvature: Curvature, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.selection, self.batch, self.curvature, self.dtype, self.device = selection, batch, curvature, dtype, device
        self.whole_parameters = all(part.index is None for part in selection.parts)

    def only(self, parts: list[Part]) -> ColumnMaps:
        """The maps restricted to some of the parts."""
        return ColumnMaps(self.selection.only(parts), self.batch, self.curvature, self.dtype, self.device)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def identity(self) -> Tensor:
        """(p, *1…, p) the unit vectors."""
        p = self.selection.size
        return torch.eye(p, dtype=self.dtype, device=self.device).reshape(p, *(1,) * len(self.batch), p)

    def product(self, linear: ParameterMap, v: Tensor) -> Tensor:
        """The image of v (..., p), which may have more leading dimensions than `batch`."""
        extra = v.ndim - 1 - len(self.batch)
        if self.curvature.broadcasts or extra <= 0:
            return self._product(linear, v)
        vectors = v.flatten(0, extra - 1)
        if in_jit_trace():  # torch.jit.trace does not record vmap
            images = torch.stack([self._product(linear, one) for one in vectors.unbind()])
        else:
            images = torch.func.vmap(lambda one: self._product(linear, one))(vectors)
        return images.unflatten(0, v.shape[:extra])

    def matrix(self, linear: ParameterMap) -> Tensor:
        """(*batch, p, p) by products with unit vectors, symmetric to the last bit."""
        return self._symmetric([self.product(linear, unit) for unit in self._unit_vectors()])

    def closed_inverse(self, inverse: ParameterMap) -> Tensor | None:
        """(*batch, p, p) the inverse from solutions in closed form; None if there are none."""
        rows = []
        for unit in self._unit_vectors():
            solution = self.closed_solution(inverse, unit)
            if solution is None:
                return None
            rows.append(solution)
        return self._symmetric(rows)

    def closed_solution(self, inverse: ParameterMap, b: Tensor) -> Tensor | None:
        """(..., p) the solution for b (..., p) if it has a closed form for all parameters; else None."""
        solved = self.closed_parts(inverse, b)
        return None if len(solved) < len(self.selection.parts) else self.concatenated(solved)

    def closed_parts(self, inverse: ParameterMap, b: Tensor) -> list[tuple[Part, Tensor]]:
        """The parameters whose part of the solution has a closed form, with this part."""
        if not self.whole_parameters or not self.curvature.solves:
            return []
        changes = inverse(self.selection.unpack(b, gradients=True))
        return [(part, part.coordinates.pack(changes[part.name])) for part in self.selection.parts if part.name in changes]

    def concatenated(self, columns: list[tuple[Part, Tensor]]) -> Tensor:
        """(..., p) the columns of all parts, in the order of the selection."""
        ordered = [next(t for part, t in columns if part is selected) for selected in self.selection.parts]
        batch = torch.broadcast_shapes(self.batch, *(t.shape[:-1] for t in ordered))
        return torch.cat([t.expand((*batch, t.shape[-1])) for t in ordered], -1)

    def _unit_vectors(self) -> Sequence[Tensor]:
        """The unit vectors in chunks (m, *1…, p)."""
        return self.identity().split(max(1, _CHUNK_BYTES // (8 * self._numbers))) if self.selection.size else ()

    @property
    def chunk_bytes(self) -> int:
        """The bytes that the products of a chunk of unit vectors need."""
        each = self.dtype.itemsize * self._numbers
        return _IN_CHUNK * max(min(_CHUNK_BYTES, self.selection.size * each), each)

    @property
    def _numbers(self) -> int:
        """About how many numbers one product stores temporarily."""
        return max(self.curvature.work, 1) * max(self.batch.numel(), 1)

    def _product(self, linear: ParameterMap, v: Tensor) -> Tensor:
        changes: dict[str, Tensor] = {}
        for part, at in self.selection.slices():  # elements of one parameter may be in several parts
            values = v[..., at]
            if part.index is not None:
                zeros = values.new_zeros(*values.shape[:-1], part.coordinates.size)
                values = zeros.index_copy(-1, part.index_tensor(v.device), values)
            change = part.coordinates.unpack(values)
            changes[part.name] = changes[part.name] + change if part.name in changes else change
        columns = self.selection.pack(linear(changes), gradients=True)
        return columns.expand((*torch.broadcast_shapes(self.batch, columns.shape[:-1]), columns.shape[-1]))

    def _symmetric(self, rows: list[Tensor]) -> Tensor:
        """(*batch, p, p) from chunks of rows (m, *batch, p)."""
        if not rows:
            return self.zeros(*self.batch, self.selection.size, self.selection.size)
        full = torch.cat(rows).movedim(0, -2)
        return 0.5 * (full + full.mT)
