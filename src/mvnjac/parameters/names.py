"""Names of the variables, or their numbers, for columns and messages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mvnjac.errors import ArgumentError, ShapeError

#: one name per variable; or, for matrix-valued variables, the names of the rows and of the columns
NamesArgument = Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True)
class Names:
    """The variables in order: along one axis, or along the rows and columns of a matrix in row-major order.

    Attributes:
        axes: the labels along each axis: names or numbers.
        given: whether the labels are names.
        what: the noun for a variable without a name in messages.
    """

    axes: tuple[Sequence[Any], ...]
    given: bool
    what: str = "variable"

    @property
    def size(self) -> int:
        """The number of variables."""
        return math.prod([len(axis) for axis in self.axes])

    @property
    def argument(self) -> NamesArgument | None:
        """The argument `names=`; None if no names were given."""
        if not self.given:
            return None
        return list(self.axes[0]) if len(self.axes) == 1 else [list(axis) for axis in self.axes]

    @property
    def labels(self) -> list[str] | None:
        """The label of each variable, "row,column" in a matrix; None if variables are numbered along one axis."""
        if len(self.axes) == 1:
            return list(self.axes[0]) if self.given else None
        return [",".join(map(str, parts)) for parts in itertools.product(*self.axes)]

    def __call__(self, i: int) -> str:
        """The name of variable i in a message."""
        if i >= self.size:  # an index along an axis that does not run over the variables
            return f"{self.what} {i}"
        parts: list[str] = []
        for axis in reversed(self.axes):
            i, j = divmod(i, len(axis))
            parts.insert(0, str(axis[j]))
        label = ",".join(parts)
        return repr(label) if self.given else f"{self.what} {label}"

    def part(self, at: slice) -> Names:
        """The names of some of the variables."""
        labels = self.labels
        return Names((self.axes[0][at] if labels is None else labels[at],), self.given)

    def axis(self, index: int, size: int, what: str) -> Names:
        """The names of the rows or columns of matrix-valued variables; numbers if the variables are named one by one."""
        if len(self.axes) == 2:
            return Names((self.axes[index],), self.given, what)
        return Names((range(size),), False, what)


def valid_names(
    function: str, names: NamesArgument | None, event: Sequence[int], matrix_shape: tuple[int, int] | None
) -> Names:
    """The validated names of variables with this event shape; `matrix_shape` is given for matrix-valued variables.

    Raises:
        ShapeError: if the number of names is wrong.
        ArgumentError: if a name occurs more than once.
    """
    if names is None:
        return Names(tuple(range(length) for length in event), False)
    if matrix_shape is None or all(isinstance(name, str) or not isinstance(name, Iterable) for name in names):
        return Names((_distinct(function, names, math.prod(event), "names for", "variables"),), True)
    if len(names) != 2:
        raise ShapeError(f"{function}: names has {len(names)} lists; expected two, [rows, columns].")
    (rows, columns), (m, q) = names, matrix_shape
    given = (
        _distinct(function, rows, m, "row names for", "rows"),
        _distinct(function, columns, q, "column names for", "columns"),
    )
    return Names(given, True)


def _distinct(function: str, names: Iterable[object], count: int, before: str, after: str) -> list[str]:
    labels = [str(name) for name in names]
    if len(labels) != count:
        raise ShapeError(f"{function}: {len(labels)} {before} {count} {after}.")
    repeated = sorted({name for name in labels if labels.count(name) > 1})
    if repeated:
        raise ArgumentError(f"{function}: names must be unique; {', '.join(map(repr, repeated))} occurs more than once.")
    return labels
