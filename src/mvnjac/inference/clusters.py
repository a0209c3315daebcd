"""Clusters of rows that may depend on each other, in one or several ways (multiway clustering)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, FewClustersWarning, warn
from mvnjac.inference.row_labels import require_labels, row_labels


def groupings(function: str, clusters: Any, n: int) -> list[list[Any]]:
    """Lists of n labels, one for each way of clustering, from a sequence, a list or mapping of sequences, or a table or array.

    Raises:
        ArgumentError: there are no labels; labels are missing, of several types, or not hashable.
        ShapeError: the number of labels is not n.
    """
    if clusters is None:
        raise ArgumentError(f"{function}: kind='clustered' needs clusters=, one label a row.")
    ways = [(name, row_labels(function, name, way, n)) for name, way in _ways(clusters)]
    if not ways:
        raise ArgumentError(f"{function}: clusters is empty; expected one label a row: {n}.")
    for name, labels in ways:
        require_labels(function, name, labels)
        _require_hashable(function, name, labels)
    return [labels for _, labels in ways]


def _ways(clusters: Any) -> Iterator[tuple[str, Any]]:
    """The name, for messages, and the labels of each way of clustering."""
    if hasattr(clusters, "column_names"):  # an Arrow table or record batch
        yield from ((f"clusters[{name!r}]", clusters.column(i)) for i, name in enumerate(clusters.column_names))
    elif hasattr(clusters, "iloc") and hasattr(clusters, "columns"):  # pandas, in which two columns may have the same name
        yield from ((f"clusters[{name!r}]", clusters.iloc[:, i]) for i, name in enumerate(clusters.columns))
    elif hasattr(clusters, "columns"):  # other data frames
        yield from ((f"clusters[{name!r}]", clusters[name]) for name in clusters.columns)
    elif isinstance(clusters, Mapping):
        yield from ((f"clusters[{name!r}]", way) for name, way in clusters.items())
    elif isinstance(clusters, np.ndarray | Tensor) and clusters.ndim == 2:  # its columns, as of a data frame
        yield from ((f"clusters[:, {i}]", clusters[:, i]) for i in range(clusters.shape[1]))
    elif isinstance(clusters, list | tuple) and clusters and all(map(_is_sequence, clusters)):
        yield from ((f"clusters[{i}]", way) for i, way in enumerate(clusters))
    else:
        yield "clusters", clusters


def _is_sequence(way: Any) -> bool:
    """Whether this is a sequence of labels, not a label."""
    return isinstance(way, Iterable) and not isinstance(way, str | bytes) and getattr(way, "ndim", 1) > 0


def _require_hashable(function: str, argument: str, labels: Sequence[Any]) -> None:
    for i, label in enumerate(labels):
        try:
            hash(label)
        except TypeError:
            raise ArgumentError(
                f"{function}: {argument} has a {type(label).__name__} in row {i}; expected labels such as text, numbers or "
                "dates."
            ) from None


def clustered_sum(function: str, series: Tensor, ways: Sequence[Sequence[Any]], adjust: bool) -> Tensor:
    """(k, k) Σ over the clusters g of (Σ_{i∈g} uᵢ)(Σ_{i∈g} uᵢ)ᵀ, times G/(G − 1) with `adjust`.

    With several ways of clustering: the sum over the ways, minus that over the intersections of two ways, plus that of three, …
    (Cameron, Gelbach & Miller 2011, *Robust inference with multiway clustering*).
    """
    total = series.new_zeros(series.shape[1], series.shape[1])
    for count in range(1, len(ways) + 1):
        for intersected in itertools.combinations(ways, count):
            sums = _cluster_sums(series, list(zip(*intersected, strict=True)))
            groups = len(sums)
            if groups < 2:
                raise ArgumentError(f"{function}: all rows are in one cluster; expected at least two clusters.")
            scale = groups / (groups - 1) if adjust else 1.0
            total = total - (-1.0) ** count * scale * (sums.mT @ sums)
    return total


def fewest_clusters(function: str, ways: Sequence[Sequence[Any]], parameters: int) -> int:
    """The smallest number of clusters over the ways, with a warning if it does not exceed the number of parameters."""
    fewest = min(len(set(way)) for way in ways)
    if 1 < fewest <= parameters:
        warn(
            f"{function}: there are {fewest} clusters for {parameters} parameters that were estimated, so the covariance is "
            "singular, and joint tests are not valid. Estimate fewer parameters (by a structure, or known=); for single "
            "parameters use_t=True gives t quantiles.",
            FewClustersWarning,
        )
    return fewest


def _cluster_sums(series: Tensor, labels: Sequence[Any]) -> Tensor:
    numbers: dict[Any, int] = {}
    index = [numbers.setdefault(label, len(numbers)) for label in labels]
    sums = series.new_zeros(len(numbers), series.shape[1])
    return sums.index_add(0, torch.tensor(index, dtype=torch.long, device=series.device), series)
