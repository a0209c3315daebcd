"""Which structure is meant: a name with an option ("low-rank:5"), a class, or an instance whose parameters are the start."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass

from mvnjac.covariance import structures
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import Estimable, whole_number
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.covariance.parametrisations.dense import Dense
from mvnjac.covariance.structured.flip_flop import sides
from mvnjac.covariance.structured.kronecker import Kronecker
from mvnjac.errors import ArgumentError, ShapeError, UnknownNameError
from mvnjac.statistics.sufficient import SufficientStatistics


@dataclass(frozen=True)
class Choice:
    """A structure to estimate: of which class, with which option, or from which instance on."""

    cls: type[Covariance]
    option: str | None = None
    instance: Covariance | None = None

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        """(m, q) where the variables form a matrix."""
        if self.instance is not None:
            return self.instance.matrix_shape
        return sides(self.option) if self.cls is Kronecker else None

    def start(self, sample: SufficientStatistics) -> Covariance:
        """Where the search starts, float64; of the dense family Σ itself is what is estimated."""
        searched = Dense if issubclass(self.cls, DenseParametrisation) else self.cls
        if self.instance is None or searched.closed_form:
            return searched.start(sample, self.option)
        start = self.instance.map(lambda t: t.detach().to(sample.origin))
        if start.dimension not in (None, sample.d):
            raise ShapeError(
                f"{sample.name}: {self.instance!r} is of {start.dimension} variables, but x has {sample.d} columns."
            )
        if start.batch:
            raise ShapeError(
                f"{sample.name}: {self.instance!r} has leading dimensions {tuple(start.batch)}; one is fitted at a time."
            )
        return start


def kebab(name: str) -> str:
    """ScaleCorrelation → scale-correlation."""
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def choices() -> dict[str, type[Covariance]]:
    """The structures that a fit knows a start for, by the names they are asked for by."""
    return {kebab(name): cls for name, cls in structures().items() if _startable(cls)}


def _short() -> dict[str, type[Covariance]]:
    return {cls.short: cls for cls in structures().values() if cls.short is not None}


def manual() -> list[str]:
    """The same as they are written, with their options."""
    return [name if cls.option is None else f"{name}:{cls.option}" for name, cls in sorted(choices().items())]


def choose(structure: str | type[Covariance] | Covariance) -> Choice:
    """What the argument means.

    Raises:
        UnknownNameError: no structure of that name.
        ArgumentError: an option that the structure does not have, or lacks; what is no structure at all.
    """
    if isinstance(structure, Covariance):
        return Choice(type(structure), instance=structure)
    if isinstance(structure, str):
        name, colon, option = structure.partition(":")
        cls = (_short() | choices()).get(name.lower().replace("_", "-"))
        if cls is None:
            by_instance = {kebab(other): other for other in structures()}.get(name.lower().replace("_", "-"))
            if by_instance is not None:
                raise ArgumentError(
                    f"fit: {by_instance} has no start of its own; pass an instance: its parameters are the start."
                )
            close = difflib.get_close_matches(name, choices(), 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UnknownNameError(f"fit: there is no structure {name!r} to fit.{hint} There are: {', '.join(manual())}.")
        return _checked(cls, option if colon else None)
    if isinstance(structure, type) and issubclass(structure, Covariance):
        return _checked(structure, None)
    raise ArgumentError(
        f"fit: structure is a {type(structure).__name__}; pass a name such as 'low-rank:5', a class or an instance."
    )


def _checked(cls: type[Covariance], option: str | None) -> Choice:
    name = kebab(cls.__name__)
    if not _startable(cls):
        raise ArgumentError(
            f"fit: {cls.__name__} does not say where a fit starts; pass an instance of it: its parameters are the start."
        )
    if cls.option is None and option is not None:
        raise ArgumentError(f"fit: the structure {name} takes no option, got {name}:{option}.")
    if cls.option is not None and option is None:
        raise ArgumentError(f"fit: the structure {name} is asked for as {name}:{cls.option}; or pass an instance.")
    if cls is Kronecker:
        sides(option)
    elif option is not None:
        whole_number(name, option)
    return Choice(cls, option)


def _startable(cls: type[Covariance]) -> bool:
    own = inspect.getattr_static(cls, "start") is not inspect.getattr_static(Estimable, "start")
    return own or issubclass(cls, DenseParametrisation)
