"""Selection of columns of the Jacobian: `wrt` names whole parameters or single elements of them."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from mvnjac.errors import ArgumentError, UnknownNameError
from mvnjac.parameters.coordinates import Coordinates

LAYOUTS = ("unique", "full")
#: a parameter's name → the labels along its named axes, None for numbers
Labels = Callable[[str], Sequence[str] | None]


@dataclass(frozen=True)
class Part:
    """Adjacent columns of one parameter: all of its elements, or some of them.

    Attributes:
        name: of the parameter.
        layout: "unique" or "full".
        coordinates: of the parameter in this layout.
        index: the positions of the selected elements among those of the coordinates; None for all.
        labels: the labels by which elements were selected.
    """

    name: str
    layout: str
    coordinates: Coordinates
    index: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of columns."""
        return self.coordinates.size if self.index is None else len(self.index)

    def index_tensor(self, device: torch.device) -> torch.Tensor:
        """(size,) the positions of the selected elements."""
        return torch.tensor(self.index, dtype=torch.long, device=device)

    def take(self, packed: torch.Tensor) -> torch.Tensor:
        """(..., size) the columns of this part out of all unique elements of its parameter."""
        return packed if self.index is None else packed[..., self.index_tensor(packed.device)]

    def joined(self, other: Part) -> Part | None:
        """Both as one part, to be computed together, if both are elements of the same parameter; else None."""
        if self.name != other.name or self.index is None or other.index is None:
            return None
        return Part(self.name, self.layout, self.coordinates, self.index + other.index, self.labels + other.labels)


class Selection:
    """The parts selected by `wrt`, in the given order, in the coordinates of a layout."""

    def __init__(
        self,
        wrt: str | Iterable[str] | None,
        layout: str,
        default: Sequence[str],
        known: Sequence[str],
        coordinates: Callable[[str], Coordinates],
        labels: Labels,
    ) -> None:
        if layout not in LAYOUTS:
            raise ArgumentError(f"layout is {layout!r}; expected 'unique' or 'full'.")
        selected = list(default) if wrt is None else [wrt] if isinstance(wrt, str) else list(wrt)
        repeated = [label for i, label in enumerate(selected) if label in selected[:i]]
        if repeated:
            raise ArgumentError(f"wrt: {repeated[0]!r} is named twice.")
        self.labels_of, self._known = labels, known
        overlapping = [label for label in selected if (name := self._name(label)) != label and name in selected]
        if overlapping:
            raise ArgumentError(f"wrt: {overlapping[0]!r} is an element of a parameter that is selected as a whole.")
        self.parts: list[Part] = []
        for label in selected:
            part = self._part(label, layout, coordinates)
            joined = self.parts[-1].joined(part) if self.parts else None
            self.parts = [*self.parts[:-1], joined] if joined else [*self.parts, part]

    @property
    def size(self) -> int:
        """p, the number of columns."""
        return sum(part.size for part in self.parts)

    def columns(self) -> list[str]:
        """The p column names."""
        labels: list[str] = []
        for part in self.parts:
            if part.index is None:
                labels += [part.name + label for label in part.coordinates.labels(self.labels_of(part.name))]
            else:
                labels += part.labels
        return labels

    def only(self, parts: list[Part]) -> Selection:
        """The selection of these parts alone."""
        other = copy.copy(self)
        other.parts = parts
        return other

    def slices(self) -> list[tuple[Part, slice]]:
        """Each part with the slice of its columns."""
        located, first = [], 0
        for part in self.parts:
            located.append((part, slice(first, first + part.size)))
            first += part.size
        return located

    def pack(self, values: Mapping[str, torch.Tensor], *, gradients: bool = False) -> torch.Tensor:
        """(..., size) values (or full gradients) of the parameters, by name, as columns side by side."""
        columns = []
        for part in self.parts:
            kind, value = part.coordinates, values[part.name]
            columns.append(part.take(kind.pack_gradient(value) if gradients else kind.pack(value)))
        if not columns:
            raise ArgumentError("wrt names no parameter.")
        batch = torch.broadcast_shapes(*(column.shape[:-1] for column in columns))
        return torch.cat([column.expand((*batch, column.shape[-1])) for column in columns], -1)

    def unpack(self, columns: torch.Tensor, *, gradients: bool = False) -> dict[str, torch.Tensor]:
        """Whole parameters from columns (..., size): the inverse of `pack`."""
        return {
            part.name: part.coordinates.unpack_gradient(columns[..., at])
            if gradients
            else part.coordinates.unpack(columns[..., at])
            for part, at in self.slices()
        }

    def _part(self, label: str, layout: str, coordinates: Callable[[str], Coordinates]) -> Part:
        name = self._name(label)
        if name is None:
            raise unknown_name(label, re.sub(r"\[[^][]*\]$", "", label), self._known)
        elements = coordinates(name) if layout == "unique" else coordinates(name).all_entries()
        if name == label:
            return Part(name, layout, elements)
        labels = self.labels_of(name)
        index = elements.locate(label[len(name) :], labels)
        if index is None:
            raise UnknownNameError(f"wrt: {label!r} is not an element of {name}; it has {_examples(name, elements, labels)}.")
        return Part(name, layout, elements, (index,), (label,))

    def _name(self, label: str) -> str | None:
        """The parameter that a label or its element belongs to, whose name may contain brackets; None if unknown."""
        known = [name for name in self._known if label == name or label.startswith(f"{name}[")]
        return max(known, key=len, default=None)


def unknown_name(label: str, name: str, known: Sequence[str]) -> UnknownNameError:
    """The error for an unknown parameter, with the closest known name."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"There is no parameter {label!r} here.{hint} The names are: {', '.join(known)}.")


def _examples(name: str, coordinates: Coordinates, axis: Sequence[str] | None) -> str:
    if coordinates.size > 10_000:
        return f"{coordinates.size} elements"
    labels = [name + label for label in coordinates.labels(axis)]
    if not labels:
        return "no elements"
    return ", ".join(labels) if len(labels) <= 6 else f"{', '.join(labels[:3])}, …, {labels[-1]}"
