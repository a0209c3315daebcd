"""The order of rows in time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError
from mvnjac.inference.named import row_labels


def order_of(function: str, order_by: Iterable[Any] | None, n: int) -> Tensor:
    """(n,) the numbers of the rows, sorted by these labels; rows of equal labels stay as they are."""
    labels = row_labels(function, "order_by", order_by, n)
    unordered = [i for i, label in enumerate(labels) if label != label or label is None]  # NaN and NaT differ from themselves
    if unordered:
        raise ArgumentError(f"{function}: order_by has no value in row {unordered[0]}; every row needs a place.")
    return torch.tensor(sorted(range(n), key=lambda i: labels[i]), dtype=torch.long, device="cpu")
