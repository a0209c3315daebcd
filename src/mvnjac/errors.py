"""Every error that mvnjac raises on purpose, and what messages and warnings are made with.

Each message says what was called, what it got, what it expected, where (row, column, batch index, pivot), and what to do.
All classes derive from :class:`MvnjacError`; those about arguments are also the built-in error that a Python user expects
(``ValueError``, ``TypeError``, ``KeyError``, ``AttributeError``, ``MemoryError``).
"""

from __future__ import annotations

import sys
import warnings


class MvnjacError(Exception):
    """Base of all errors of this package."""


class ArgumentError(MvnjacError, ValueError):
    """An argument has a wrong value."""


class ShapeError(ArgumentError):
    """An argument has a wrong shape."""


class DtypeError(ArgumentError, TypeError):
    """An argument is no floating-point tensor, or its dtype differs from the others'."""


class DeviceError(ArgumentError):
    """The arguments lie on different devices."""


class NotFiniteError(ArgumentError):
    """An argument contains NaN or an infinity."""


class NotSymmetricError(ArgumentError):
    """A matrix that must be symmetric is not."""


class NotPositiveDefiniteError(ArgumentError):
    """The covariance (or precision, or correlation) is not positive definite."""


class NotIdentifiedError(ArgumentError):
    """The data, or the model, leave some parameters undetermined."""


class SingularError(ArgumentError):
    """An information or Hessian matrix that is to be inverted is singular."""


class UnsolvedError(SingularError):
    """An iteration with an information matrix did not converge: the matrix is singular, or nearly so."""


class UnknownNameError(ArgumentError, KeyError):
    """A parameter or column of that name does not exist here."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class ReadOnlyError(MvnjacError, AttributeError):
    """An attribute that cannot be assigned, since what was computed from it would not follow."""


class MemoryLimitError(MvnjacError, MemoryError):
    """What was asked for does not fit into the memory that is available: refused beforehand, or an allocation failed."""


class TableError(MvnjacError):
    """A data file cannot be read or written, or holds what cannot be used."""


class UsageError(MvnjacError):
    """The command line asks for something that does not exist or must not be done (exit code 2)."""


class InternalError(MvnjacError):
    """A fault of mvnjac itself was noticed before it could reach a result."""


class NotConvergedWarning(UserWarning):
    """A fit stopped before it reached a maximum; `Fit.converged` is False."""


class NotAtEstimateWarning(UserWarning):
    """A result is computed as if the parameters were the estimate, but the total score there is not 0."""


class FewClustersWarning(UserWarning):
    """A clustered covariance is of so few clusters that it is singular."""


class NotPositiveSemidefiniteWarning(UserWarning):
    """An estimate of a covariance has negative eigenvalues."""


class NeverRejectsWarning(UserWarning):
    """A test of which the statistic cannot become significant, whatever the data."""


class IllConditionedWarning(UserWarning):
    """The correlation matrix of a covariance leaves fewer than 6 of the 16 decimal digits of float64; the variables are named."""


_IRREGULAR = {"matrix": "matrices", "entry": "entries", "such entry": "such entries", "degree of freedom": "degrees of freedom"}


def counted(count: int, noun: str, form: str = "") -> str:
    """A number and what it counts: "1 row", "3 rows"; form: of the number, such as ",".

    Example:
        >>> from mvnjac.errors import counted
        >>> counted(1, "variable"), counted(2000, "row", ",")
        ('1 variable', '2,000 rows')
    """
    return f"{count:{form}} {noun if count == 1 else _IRREGULAR.get(noun, noun + 's')}"


def warn(message: str, category: type[Warning]) -> None:
    """Give a warning as if the first caller outside this package gave it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "mvnjac":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
