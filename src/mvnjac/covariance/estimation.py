"""What a structure says to those who estimate it: where a search starts, how it moves, when there is no maximum to be found."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from mvnjac.errors import ArgumentError, NotPositiveDefiniteError

if TYPE_CHECKING:
    from mvnjac.sample import Sample


class Estimable:
    """The part of a covariance structure that `mvnjac.fit` asks. All of it has a default but `start`."""

    #: how what stands behind the colon of "low-rank:5" is written in the manual (RANK); None where nothing does
    option: ClassVar[str | None] = None
    #: whether `start` is the maximum of the likelihood itself
    closed_form: ClassVar[bool] = False
    #: the parameters that are positive numbers: a search moves in their logarithms
    positive: ClassVar[tuple[str, ...]] = ()
    #: the parameters that only a convention sets apart from others of the same Σ: they have no standard errors
    unidentified: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def start(cls, sample: Sample, option: str | None) -> Self:
        """Where the search for the maximum of the likelihood starts, from the sample's `covariance`, `variances` or rows.

        option: what stood behind the colon; None where the class says that nothing does.
        """
        raise ArgumentError(
            f"{sample.name}: {cls.__name__} does not say where a fit starts; pass an instance of it: its parameters are the start."
        )

    def require_maximum(self, sample: Sample) -> None:
        """Raise where the likelihood of a structure of this size has no maximum, or no single one, for this sample."""
        refuse_constant(sample)

    def rescaled(self, units: Tensor) -> Self | None:
        """diag(u) Σ diag(u), u (d,), where that is a structure of the same kind: then a search sees variables of variance 1."""
        return None

    def normalised(self) -> Self:
        """The same Σ by the parameters that a fit reports, where several mean it."""
        return self


def refuse_constant(sample: Sample) -> None:
    """A variable of a variance of its own must vary."""
    if not sample.constant:
        return
    if sample.count == 1:
        raise NotPositiveDefiniteError(f"{sample.name}: one row has no variance; use more rows.")
    named = ", ".join(map(sample.namer, sample.constant))
    one = len(sample.constant) == 1
    raise NotPositiveDefiniteError(
        f"{sample.name}: {named} {'is' if one else 'are'} constant over all {sample.count} rows: the variance is 0 and there is "
        f"no density; leave {'it' if one else 'them'} out."
    )


def whole_number(name: str, option: str | None) -> int:
    """The option of a structure as a positive integer."""
    if option is None or not option.isdecimal() or int(option) < 1:
        raise ArgumentError(f"fit: the structure {name}:{option} needs a positive whole number there, as in {name}:2.")
    return int(option)
