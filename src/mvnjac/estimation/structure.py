"""The `structure` argument of `fit`: a name with an option ("low-rank:5"), a class, or an instance with starting values."""

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
    """A structure to estimate: its class, and its option or an instance with starting values."""

    cls: type[Covariance]
    option: str | None = None
    instance: Covariance | None = None

    @property
    def matrix_shape(self) -> tuple[int, int] | None:
        """(m, q) if the variables form a matrix."""
        if self.instance is not None:
            return self.instance.matrix_shape
        return sides(self.option) if self.cls is Kronecker else None

    def start(self, sample: SufficientStatistics) -> Covariance:
        """The starting values, float64; for every dense parametrisation Σ itself is estimated."""
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
    """The structures that supply starting values, by name."""
    return {kebab(name): cls for name, cls in structures().items() if _has_start(cls)}


def manual() -> list[str]:
    """The names of these structures with their options, such as "low-rank:RANK"."""
    return [name if cls.option is None else f"{name}:{cls.option}" for name, cls in sorted(choices().items())]


def choose(structure: str | type[Covariance] | Covariance) -> Choice:
    """The structure that the argument specifies.

    Raises:
        UnknownNameError: there is no structure of that name.
        ArgumentError: an option that the structure does not have, a missing option, or an argument of another type.
    """
    if isinstance(structure, Covariance):
        return Choice(type(structure), instance=structure)
    if isinstance(structure, str):
        name, colon, option = structure.partition(":")
        abbreviations = {cls.short: cls for cls in structures().values() if cls.short is not None}
        cls = (abbreviations | choices()).get(name.lower().replace("_", "-"))
        if cls is None:
            without_start = {kebab(other): other for other in structures()}.get(name.lower().replace("_", "-"))
            if without_start is not None:
                raise _no_start(without_start)
            close = difflib.get_close_matches(name, choices(), 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UnknownNameError(f"fit: there is no structure {name!r} to fit.{hint} Expected one of: {', '.join(manual())}.")
        return _with_option(cls, option if colon else None)
    if isinstance(structure, type) and issubclass(structure, Covariance):
        return _with_option(structure, None)
    raise ArgumentError(
        f"fit: structure is a {type(structure).__name__}; pass a name such as 'low-rank:5', a Covariance class or an instance."
    )


def _with_option(cls: type[Covariance], option: str | None) -> Choice:
    name = kebab(cls.__name__)
    if not _has_start(cls):
        raise _no_start(cls.__name__)
    if cls.option is None and option is not None:
        raise ArgumentError(f"fit: the structure {name} takes no option, but got {name}:{option}; pass {name!r}.")
    if cls.option is not None and option is None:
        raise ArgumentError(f"fit: the structure {name} needs an option: pass {name}:{cls.option}, or an instance.")
    if cls is Kronecker:
        sides(option)
    elif option is not None:
        whole_number(name, option)
    return Choice(cls, option)


def _no_start(name: str) -> ArgumentError:
    return ArgumentError(f"fit: {name} has no default start; pass an instance, whose parameters are the starting values.")


def _has_start(cls: type[Covariance]) -> bool:
    overrides_start = inspect.getattr_static(cls, "start") is not inspect.getattr_static(Estimable, "start")
    return overrides_start or issubclass(cls, DenseParametrisation)
