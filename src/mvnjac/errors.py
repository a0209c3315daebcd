"""The errors and warnings of mvnjac, and helpers for their messages.

A message states the function, the value it got, what was expected, where (row, column, batch index, pivot), and what to do.
All error classes derive from :class:`MvnjacError`; those about arguments also derive from the corresponding built-in error
(``ValueError``, ``TypeError``, ``KeyError``, ``AttributeError``, ``MemoryError``).
"""

from __future__ import annotations

import sys
import warnings


class MvnjacError(Exception):
    """Base class of all errors of this package."""


class ArgumentError(MvnjacError, ValueError):
    """An argument has an invalid value."""


class ShapeError(ArgumentError):
    """An argument has an invalid shape."""


class DtypeError(ArgumentError, TypeError):
    """An argument is not a floating-point tensor, or the dtypes of the arguments differ."""


class DeviceError(ArgumentError):
    """The arguments are on different devices."""


class NotFiniteError(ArgumentError):
    """An argument contains NaN or an infinity."""


class NotSymmetricError(ArgumentError):
    """A matrix is not symmetric."""


class NotPositiveDefiniteError(ArgumentError):
    """The covariance (or precision, or correlation) is not positive definite."""


class NotIdentifiedError(ArgumentError):
    """Some parameters are not identified by the data or the model."""


class SingularError(ArgumentError):
    """An information or Hessian matrix is singular and cannot be inverted."""


class UnsolvedError(SingularError):
    """An iterative solution with an information matrix did not converge: the matrix is singular or nearly singular."""


class UnknownNameError(ArgumentError, KeyError):
    """There is no parameter or column of this name."""

    def __str__(self) -> str:  # str(KeyError) is the repr of the message
        return str(self.args[0]) if self.args else ""


class ReadOnlyError(MvnjacError, AttributeError):
    """An attribute cannot be assigned, since results computed from it would not be updated."""


class MemoryLimitError(MvnjacError, MemoryError):
    """A result does not fit into the available memory: detected beforehand, or an allocation failed."""


class TableError(MvnjacError):
    """A data file cannot be read or written, or has invalid content."""


class UsageError(MvnjacError):
    """Invalid arguments or options on the command line (exit code 2)."""


class InternalError(MvnjacError):
    """A bug in mvnjac was detected before it could affect a result."""


class NotConvergedWarning(UserWarning):
    """A fit stopped before reaching a maximum; `Fit.converged` is False."""


class NotAtEstimateWarning(UserWarning):
    """A result assumes that the parameters are the estimate, but the total score at them is not 0."""


class FewClustersWarning(UserWarning):
    """A clustered covariance has too few clusters and is singular."""


class NotPositiveSemidefiniteWarning(UserWarning):
    """An estimated covariance has negative eigenvalues."""


class NeverRejectsWarning(UserWarning):
    """A test statistic cannot become significant for any data."""


class IllConditionedWarning(UserWarning):
    """A correlation matrix leaves fewer than 6 of the 16 decimal digits of float64; the message names the variables."""


class TableWarning(UserWarning):
    """A table has stale values or outliers, which were not changed, or rows with missing values, which were left out."""


_IRREGULAR = {"matrix": "matrices", "entry": "entries", "such entry": "such entries", "degree of freedom": "degrees of freedom"}


def counted(count: int, noun: str, form: str = "") -> str:
    """A number, formatted by `form`, with a noun in the singular or plural: "1 row", "3 rows".

    Example:
        >>> from mvnjac.errors import counted
        >>> counted(1, "variable"), counted(2000, "row", ",")
        ('1 variable', '2,000 rows')
    """
    return f"{count:{form}} {noun if count == 1 else _IRREGULAR.get(noun, noun + 's')}"


def warn(message: str, category: type[Warning]) -> None:
    """Issue a warning that is attributed to the first caller outside this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "mvnjac":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
