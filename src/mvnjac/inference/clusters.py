"""Clusters: groups of rows that depend on each other, in one or several ways."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, FewClustersWarning, warn
from mvnjac.inference.labels import require_labels, row_labels


def groupings(function: str, clusters: Any, n: int) -> list[list[Any]]:
    """One or several lists of n labels, from a sequence, or a list or mapping of sequences, or the columns of a table or array.

    Raises:
        ArgumentError: no labels; labels that are missing, of several types, or cannot tell rows apart.
        ShapeError: not one a row.
    """
    if clusters is None:
        raise ArgumentError(f"{function}: clustered needs clusters=, one label a row.")
    ways = [(name, row_labels(function, name, way, n)) for name, way in _ways(clusters)]
    if not ways:
        raise ArgumentError(f"{function}: clusters is empty; expected one label a row: {n}.")
    for name, labels in ways:
        require_labels(function, name, labels)
        _require_hashable(function, name, labels)
    return [labels for _, labels in ways]


def _ways(clusters: Any) -> Iterator[tuple[str, Any]]:
    """Each way of clustering, and what it is called in messages."""
    if hasattr(clusters, "column_names"):  # an Arrow table, or a batch of one
        yield from ((f"clusters[{name!r}]", clusters.column(i)) for i, name in enumerate(clusters.column_names))
    elif hasattr(clusters, "iloc") and hasattr(clusters, "columns"):  # pandas, where two columns may have the same name
        yield from ((f"clusters[{name!r}]", clusters.iloc[:, i]) for i, name in enumerate(clusters.columns))
    elif hasattr(clusters, "columns"):  # other data frames
        yield from ((f"clusters[{name!r}]", clusters[name]) for name in clusters.columns)
    elif isinstance(clusters, Mapping):
        yield from ((f"clusters[{name!r}]", way) for name, way in clusters.items())
    elif isinstance(clusters, np.ndarray | Tensor) and clusters.ndim == 2:  # columns, as in a data frame
        yield from ((f"clusters[:, {i}]", clusters[:, i]) for i in range(clusters.shape[1]))
    elif isinstance(clusters, list | tuple) and clusters and all(map(_is_sequence, clusters)):
        yield from ((f"clusters[{i}]", way) for i, way in enumerate(clusters))
    else:
        yield "clusters", clusters


def _is_sequence(way: Any) -> bool:
    """Whether this is a way of clustering, not a label."""
    return isinstance(way, Iterable) and not isinstance(way, str | bytes) and getattr(way, "ndim", 1) > 0


def _require_hashable(function: str, argument: str, labels: Sequence[Any]) -> None:
    for i, label in enumerate(labels):
        try:
            hash(label)
        except TypeError:
            raise ArgumentError(
                f"{function}: {argument} has a {type(label).__name__} in row {i}; expected labels such as text, numbers or dates."
            ) from None


def clustered_sum(function: str, series: Tensor, ways: Sequence[Sequence[Any]], adjust: bool) -> Tensor:
    """(k, k) Σ over the clusters g of (Σ_{i∈g} uᵢ)(Σ_{i∈g} uᵢ)ᵀ, times G/(G − 1) with `adjust`.

    Of several ways of clustering: the sum over the ways, minus that over the intersections of two, plus three, …
    (Cameron, Gelbach & Miller 2011, *Robust inference with multiway clustering*).
    """
    total = series.new_zeros(series.shape[1], series.shape[1])
    for count in range(1, len(ways) + 1):
        for some in itertools.combinations(ways, count):
            sums = _sums(series, list(zip(*some, strict=True)))
            groups = len(sums)
            if groups < 2:
                raise ArgumentError(f"{function}: all rows are of one cluster; there must be two at least.")
            scale = groups / (groups - 1) if adjust else 1.0
            total = total - (-1.0) ** count * scale * (sums.mT @ sums)
    return total


def fixed_root(covariance: Tensor) -> Tensor:
    """(k, k) R with R Rᵀ the symmetric matrix without its negative eigenvalues (R's vcovCL: fix = TRUE)."""
    values, Q = torch.linalg.eigh(covariance)
    return Q * values.clamp(min=0).sqrt()


def fewest_clusters(function: str, ways: Sequence[Sequence[Any]], parameters: int) -> int:
    """The number of clusters, of several ways the smallest; with a warning where there are no more of them than parameters."""
    fewest = min(len(set(way)) for way in ways)
    if 1 < fewest <= parameters:
        warn(
            f"{function}: there are {fewest} clusters for {parameters} parameters that were estimated: the covariance is singular, and "
            "tests of several parameters together are not valid. Estimate fewer parameters (a structure, or known=); for single ones "
            "use_t=True takes t quantiles.",
            FewClustersWarning,
        )
    return fewest


def _sums(series: Tensor, labels: Sequence[Any]) -> Tensor:
    numbers: dict[Any, int] = {}
    index = [numbers.setdefault(label, len(numbers)) for label in labels]
    sums = series.new_zeros(len(numbers), series.shape[1])
    return sums.index_add(0, torch.tensor(index, dtype=torch.long, device=series.device), series)
