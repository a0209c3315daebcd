"""Labels of rows: reading them from sequences of any kind, checking them, and sorting the rows by them."""

from __future__ import annotations

import datetime
import itertools
import numbers
from collections.abc import Iterable, Sequence, Set
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, ShapeError, counted
from mvnjac.tables.chronology import sorts_in_time

#: the most rows that a message lists
_MAX_LISTED = 5
#: text that stands for a missing value: an empty field, or a missing value that was converted to text
_MISSING_TEXT = frozenset({"", "nan", "NaN", "NaT", "<NA>"})


def row_labels(function: str, argument: str, labels: Iterable[Any] | None, n: int) -> list[Any]:
    """One label a row, from a sequence, index, Series, Arrow array, array or tensor; the row numbers if there are no labels.

    Raises:
        ArgumentError: the labels are not a sequence, but text, a set or a table.
        ShapeError: the number of labels is not n.
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
    if hasattr(labels, "to_pylist"):  # Arrow arrays, whose elements are wrapped
        found = list(labels.to_pylist())
    else:
        found = list(labels.tolist()) if isinstance(labels, Tensor) else [_plain(label) for label in labels]
    if len(found) != n:
        raise ShapeError(f"{function}: {argument} has {counted(len(found), 'entry')}; expected one a row: {n}.")
    return found


def dates_of(index: Any) -> Any:
    """The labels of an index if they are dates, by which a time series is sorted; None for other labels, and for no index."""
    if index is None or not len(index):
        return None
    return index if all(hasattr(label, "isoformat") for label in index) else None


def require_labels(function: str, argument: str, labels: Sequence[Any]) -> None:
    """Require that every row has a label, and that all labels are of one kind, so that they can be compared.

    Raises:
        ArgumentError: labels are missing (None, NaN, NaT, pandas' NA, empty text), or of several kinds; the rows are listed.
    """
    missing = [i for i, label in enumerate(labels) if is_missing(label)]
    if missing:
        shown = ", ".join(map(str, missing[:_MAX_LISTED])) + (", …" if len(missing) > _MAX_LISTED else "")
        raise ArgumentError(
            f"{function}: {argument} has no value in {len(missing)} of {len(labels)} rows (counted from 0: {shown}); give "
            "these rows a label, or leave them out of the data and of the labels."
        )
    kinds: dict[str, int] = {}
    for i, label in enumerate(labels):
        kinds.setdefault(_kind(label), i)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise ArgumentError(
            f"{function}: {argument} mixes {one} ({labels[first]!r} in row {first}) and {other} ({labels[second]!r} in row "
            f"{second}), which are not comparable; convert all labels to one type."
        )


def is_missing(label: Any) -> bool:
    """Whether a label is None, NaN, NaT, pandas' NA, numpy's masked, empty text, or one of these names as text."""
    if label is None or label is np.ma.masked:
        return True
    if isinstance(label, str):
        return label.strip() in _MISSING_TEXT
    try:
        return bool(label != label)  # NaN and NaT differ from themselves
    except (TypeError, ValueError, ArithmeticError):  # pandas' NA and decimal's signalling NaN cannot be compared
        return type(label).__name__ == "NAType" or isinstance(label, Decimal)


def _plain(label: Any) -> Any:
    """A comparable value: 0-dimensional tensors and arrays, and Arrow scalars, are unwrapped."""
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


def sort_order(
    function: str, order_by: Iterable[Any] | None, n: int, argument: str = "order_by", require_unique: bool = False
) -> Tensor:
    """(n,) the row numbers sorted by these labels, stable for equal labels.

    Args:
        argument: the name of the labels in messages.
        require_unique: raise if labels are equal, and their order thus arbitrary, unless the rows are already sorted.

    Raises:
        ArgumentError: labels are missing, of several types or not ordered, or text that does not sort chronologically.
    """
    if order_by is None:
        return torch.arange(n, dtype=torch.long, device="cpu")
    categories: Any = getattr(order_by, "cat", order_by)  # pandas' categories may have an order of their own
    ordered = getattr(categories, "ordered", None) is True
    labels = row_labels(function, argument, order_by, n)
    require_labels(function, argument, labels)
    keys = [int(code) for code in categories.codes] if ordered else labels
    try:
        order = sorted(range(n), key=lambda i: keys[i])
    except TypeError as error:
        raise ArgumentError(
            f"{function}: {argument} has labels without an order, such as {labels[0]!r} ({error}); pass dates or numbers."
        ) from None
    if order != list(range(n)):
        if not ordered and isinstance(labels[0], str) and not sorts_in_time(labels):
            raise ArgumentError(
                f"{function}: {argument} is text such as {labels[0]!r} and not in ascending order; its alphabetical order need "
                "not be the order of time. Write it as YYYY-MM-DD, or pass dates (pandas.to_datetime) or numbers."
            )
        if require_unique:
            _require_unique(function, argument, [labels[i] for i in order])
    return torch.tensor(order, dtype=torch.long, device="cpu")


def _require_unique(function: str, argument: str, ascending: list[Any]) -> None:
    repeated = next((a for a, b in itertools.pairwise(ascending) if a == b), None)
    if repeated is not None:
        raise ArgumentError(
            f"{function}: {argument} has {repeated!r} in {ascending.count(repeated)} rows, and the rows are not in ascending "
            "order, so the order of these rows is not determined; make the labels unique, or sort the rows."
        )
