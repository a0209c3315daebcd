"""The order of rows in time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError
from mvnjac.inference.labels import require_labels, row_labels
from mvnjac.tables.chronology import sorts_in_time


def order_of(
    function: str, order_by: Iterable[Any] | None, n: int, argument: str = "order_by", require_unique: bool = False
) -> Tensor:
    """(n,) the numbers of the rows, sorted by these labels; rows of equal labels stay as they are.

    Args:
        argument: what the labels are called in messages.
        require_unique: labels that are equal, of rows that are not in order as they stand, are an error: which of them comes first is
            then an accident.

    Raises:
        ArgumentError: labels that are missing, of several types, without an order, or text of which the order letter by letter is not
            that of time.
    """
    if order_by is None:
        return torch.arange(n, dtype=torch.long, device="cpu")
    ordered = (
        getattr(getattr(order_by, "cat", order_by), "ordered", None) is True
    )  # pandas' categories, in an order of their own
    labels = row_labels(function, argument, order_by, n)
    require_labels(function, argument, labels)
    keys = _codes(order_by) if ordered else labels
    try:
        order = sorted(range(n), key=lambda i: keys[i])
    except TypeError as error:
        raise ArgumentError(f"{function}: {argument} has labels without an order, such as {labels[0]!r} ({error}).") from None
    if order != list(range(n)):
        if not ordered and isinstance(labels[0], str) and not sorts_in_time(labels):
            raise ArgumentError(
                f"{function}: {argument} is text such as {labels[0]!r} and not ascending as it stands; sorted letter by letter it need "
                "not be in the order of time. Write it as YYYY-MM-DD, or pass dates (pandas.to_datetime) or numbers."
            )
        if require_unique:
            _require_unique(function, argument, [labels[i] for i in order])
    return torch.tensor(order, dtype=torch.long, device="cpu")


def _codes(labels: Any) -> list[int]:
    """The places of pandas' ordered categories, of a Series, an index or an array of them."""
    return [int(code) for code in getattr(labels, "cat", labels).codes]


def _require_unique(function: str, argument: str, ascending: list[Any]) -> None:
    repeated = next((a for a, b in itertools.pairwise(ascending) if a == b), None)
    if repeated is not None:
        raise ArgumentError(
            f"{function}: {argument} has {repeated!r} in {ascending.count(repeated)} rows, and the rows are not in order as they "
            "stand, so that it is open which of them comes first; make the labels unique, or sort the rows."
        )
