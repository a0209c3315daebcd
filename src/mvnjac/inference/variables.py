"""Which parameters belong to which variable."""

from __future__ import annotations

from collections.abc import Sequence

from mvnjac.inference.estimating_functions import EstimatingFunctions


def columns_of_variables(estimating: EstimatingFunctions, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By variable, those of the columns that are elements of it: its mean, variance, covariances; {} of those that are of none."""
    found: dict[str, list[str]] = {}
    for part in estimating.jacobian.selection(names, "unique").parts:
        kind, axis = part.coordinates, estimating.model.arguments.labels_of(part.name)
        index = kind.indices()
        chosen = index if part.index is None else [index[i] for i in part.index]
        labels = part.labels or [part.name + label for label in kind.labels(axis)]
        for at, label in zip(chosen, labels, strict=True):
            for variable in dict.fromkeys(kind.variables(at)):
                found.setdefault(str(variable) if axis is None else axis[variable], []).append(label)
    return {name: tuple(own) for name, own in found.items()}
