"""Labels of rows, from whatever holds them, and what makes them unfit for clusters or for an order."""

from __future__ import annotations

import datetime
import numbers
from collections.abc import Iterable, Sequence, Set
from decimal import Decimal
from typing import Any

import numpy as np
from torch import Tensor

from mvnjac.errors import ArgumentError, ShapeError, counted

#: as many rows are named in a message
_NAMED = 5
#: how text says that there is no value: an empty field, or what a missing value becomes where an array is turned into text
_MISSING_TEXT = frozenset({"", "nan", "NaN", "NaT", "<NA>"})


def row_labels(function: str, argument: str, labels: Iterable[Any] | None, n: int) -> list[Any]:
    """One label a row, from a sequence, an index, a Series, an Arrow array, an array or a tensor; numbers where none are given.

    Raises:
        ArgumentError: text, a set, a table: no sequence of labels.
        ShapeError: not one a row.
    """
    if labels is None:
        return list(range(n))
    shape = getattr(labels, "shape", None)
    if (
        isinstance(labels, str | bytes | Set)
        or not isinstance(labels, Iterable)
        or (isinstance(shape, tuple) and len(shape) != 1)
    ):
        got = f"an array of shape {tuple(shape)}" if isinstance(shape, tuple) else f"a {type(labels).__name__}"
        raise ArgumentError(f"{function}: {argument} is {got}; expected a sequence of labels, one a row: {n}.")
    if hasattr(labels, "to_pylist"):  # Arrow, whose own elements are wrapped
        found = list(labels.to_pylist())
    else:
        found = list(labels.tolist()) if isinstance(labels, Tensor) else [_plain(label) for label in labels]
    if len(found) != n:
        raise ShapeError(f"{function}: {argument} has {counted(len(found), 'entry')}; expected one a row: {n}.")
    return found


def require_labels(function: str, argument: str, labels: Sequence[Any]) -> None:
    """Every row has a label, and all labels are of one kind, so that they can be compared.

    Raises:
        ArgumentError: labels that are missing (None, NaN, NaT, pandas' NA, empty text), how many and where; or of several kinds.
    """
    missing = [i for i, label in enumerate(labels) if is_missing(label)]
    if missing:
        shown = ", ".join(map(str, missing[:_NAMED])) + (", …" if len(missing) > _NAMED else "")
        raise ArgumentError(
            f"{function}: {argument} has no value in {len(missing)} of {len(labels)} rows (counted from 0: {shown}); give these rows "
            "a label, or leave them out of the data and of the labels."
        )
    kinds: dict[str, int] = {}
    for i, label in enumerate(labels):
        kinds.setdefault(_kind(label), i)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise ArgumentError(
            f"{function}: {argument} mixes {one} ({labels[first]!r} in row {first}) and {other} ({labels[second]!r} in row {second}), "
            "which are not comparable; convert all labels to one type."
        )


def is_missing(label: Any) -> bool:
    """None, NaN, NaT, pandas' NA, numpy's masked, empty text, and the names of these as text."""
    if label is None or label is np.ma.masked:
        return True
    if isinstance(label, str):
        return label.strip() in _MISSING_TEXT
    try:
        return bool(label != label)  # NaN and NaT differ from themselves
    except (TypeError, ValueError, ArithmeticError):  # of pandas' NA it is not known whether it does
        return type(label).__name__ == "NAType" or isinstance(label, Decimal)


def _plain(label: Any) -> Any:
    """A number in a tensor or array of its own, or an Arrow scalar, as the value that compares by what it is."""
    if label is np.ma.masked or isinstance(label, np.generic):
        return label
    if getattr(label, "ndim", None) == 0 and hasattr(label, "item"):
        return label.item()
    return label.as_py() if hasattr(label, "as_py") else label


def _kind(label: Any) -> str:
    if isinstance(label, bool | np.bool_):
        return "truth values"
    if isinstance(label, str):
        return "text"
    if isinstance(label, datetime.datetime):
        return "dates with a time zone" if label.tzinfo is not None else "dates with a time"
    if isinstance(label, np.datetime64):
        return "numpy's dates"
    return "numbers" if isinstance(label, numbers.Number) else f"{type(label).__name__} objects"
