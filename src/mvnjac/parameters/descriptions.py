"""Columns in words: "variance of CHF" for covariance_matrix[CHF,CHF], for summaries and reports. Data have the exact names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mvnjac.parameters.coordinates import Coordinates
from mvnjac.parameters.selection import Part, Selection

#: a phrase for an element of a parameter, such as "mean of {}"; for a matrix over the variables also one for a diagonal element,
#: such as ("covariance of {} and {}", "variance of {}")
Phrase = str | tuple[str, str]


def descriptions(selection: Selection, phrase_of: Callable[[str], Phrase | None]) -> list[str]:
    """The p columns in words; the exact name where there is no phrase for a parameter."""
    names, found = selection.columns(), list[str]()
    for part, at in selection.slices():
        phrase = phrase_of(part.name)
        found += names[at] if phrase is None else _described(part, phrase, selection.labels_of(part.name))
    return found


def _described(part: Part, phrase: Phrase, labels: Sequence[str] | None) -> Iterator[str]:
    elements = part.coordinates.indices()
    axes = [_axis(part.coordinates, axis, labels) for axis in range(len(part.coordinates.shape))]
    for element in elements if part.index is None else [elements[i] for i in part.index]:
        words = [axis[i] for axis, i in zip(axes, element, strict=True)]
        if isinstance(phrase, str):
            yield phrase.format(*words)
        else:  # the variable that comes first is named first
            off_diagonal, diagonal = phrase
            yield diagonal.format(words[0]) if element[0] == element[1] else off_diagonal.format(*reversed(words))


def _axis(coordinates: Coordinates, axis: int, labels: Sequence[str] | None) -> list[str]:
    numbered = labels is None and axis in coordinates.named_axes
    return [f"variable {label}" if numbered else label for label in coordinates.axis_labels(axis, labels)]
