"""What a structure says to those who estimate it: where a search starts, how it moves, when there is no maximum to be found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, NotFiniteError, NotIdentifiedError, NotPositiveDefiniteError, counted
from mvnjac.parameters import checks

if TYPE_CHECKING:
    from mvnjac.statistics.sufficient import SufficientStatistics

#: a variance below this share of the sample's, and still falling, has left the interior
VANISHED = 1e-8
#: and below this share it is worth a word where a search fails
_NEAR = 1e-4
#: a parameter that a fit bounds stays above this share of the sample's variance
LOWER = 0.005
#: pairs that a message names
_SHOWN = 10


class Estimable:
    """The part of a covariance structure that `mvnjac.fit` asks. All of it has a default but `start`."""

    #: how what stands behind the colon of "low-rank:5" is written in the manual (RANK); None where nothing does
    option: ClassVar[str | None] = None
    #: another name that it is asked for by: "ar" for autoregressive
    short: ClassVar[str | None] = None
    #: whether `start` is the maximum of the likelihood itself
    closed_form: ClassVar[bool] = False
    #: the parameters that are positive numbers: a search moves in their logarithms
    positive: ClassVar[tuple[str, ...]] = ()
    #: those of them, one a variable, that a fit keeps above a share of the sample's variances
    bounded: ClassVar[tuple[str, ...]] = ()
    #: what to do where a variance goes to 0
    advice: ClassVar[str] = "Leave variables out, take another structure, or start from an instance elsewhere."
    #: the parameters that only a convention sets apart from others of the same Σ: they have no standard errors
    unidentified: tuple[str, ...] = ()
    #: the parameter that multiplies Σ, where all variables have one unit and the other parameters none
    scaling: ClassVar[str | None] = None
    parameters: dict[str, Tensor]

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Self:
        """Where the search for the maximum of the likelihood starts, from the sample's `covariance`, `variances` or rows.

        option: what stood behind the colon; None where the class says that nothing does.
        """
        raise ArgumentError(
            f"{sample.name}: {cls.__name__} does not say where a fit starts; pass an instance of it: its parameters are the start."
        )

    def require_maximum(self, sample: SufficientStatistics) -> None:
        """Raise where the likelihood of a structure of this size has no maximum, or no single one, for this sample."""
        refuse_constant(sample)

    def require_interior(self, sample: SufficientStatistics, scores: Callable[[str], Tensor]) -> None:
        """Raise where a search has come to the edge: to variances that go to 0 uphill. `scores` are those by the logarithms."""
        for name, shares in self._shares(sample):
            gone = ((shares < VANISHED) & (scores(name) < 0).reshape(shares.shape)).reshape(-1).nonzero().squeeze(-1).tolist()
            if gone:
                named = f"{name} of {', '.join(map(sample.name_of, gone))}" if shares.ndim else name
                raise NotPositiveDefiniteError(
                    f"{sample.name}: {named} goes to 0, and the likelihood rises on the way: it has no maximum with positive {name} "
                    f"near here. {self.advice}"
                )

    def near_edge(self, sample: SufficientStatistics) -> list[str]:
        """What a search that did not converge has nearly come to: "cov_diag of 'HKD'"."""
        near = ((name, int(shares.argmin())) for name, shares in self._shares(sample) if float(shares.min()) < _NEAR)
        return [f"{name} of {sample.name_of(i)}" for name, i in near]

    def _shares(self, sample: SufficientStatistics) -> Iterator[tuple[str, Tensor]]:
        """Each parameter of positive numbers that has no bound, in variances of the sample."""
        for name in set(self.positive) - set(self.bounded):
            values = self.parameters[name]
            yield name, values / (sample.variances if values.shape == sample.variances.shape else sample.variances.mean())

    def rescaled(self, units: Tensor) -> Self | None:
        """diag(u) Σ diag(u), u (d,) as `units_of` has them, where that is a structure of the same kind; else None."""
        if self.scaling is None:
            return None
        return type(self)(**{**self.parameters, self.scaling: self.parameters[self.scaling] * units[0] ** 2})

    def units_of(self, sample: SufficientStatistics) -> Tensor:
        """(d,) the units in which a search sees variables of variance 1; one for all of them, where Σ allows no other."""
        units = sample.variances.sqrt()
        return units if self.scaling is None else units.mean().expand(units.shape)

    def normalised(self) -> Self:
        """The same Σ by the parameters that a fit reports, where several mean it."""
        return self


def refuse_constant(sample: SufficientStatistics) -> None:
    """A variable of a variance of its own must vary."""
    if not sample.constant:
        return
    if sample.count == 1:
        raise NotPositiveDefiniteError(f"{sample.name}: one row has no variance; use more rows.")
    named = ", ".join(map(sample.name_of, sample.constant))
    one = len(sample.constant) == 1
    where = f"over all {sample.count} rows" if sample.complete else "wherever observed"
    raise NotPositiveDefiniteError(
        f"{sample.name}: {named} {'is' if one else 'are'} constant {where}: the variance is 0 and there is no density; leave "
        f"{'it' if one else 'them'} out."
    )


def refuse_all_constant(sample: SufficientStatistics) -> None:
    """Where variables share their variances, one that varies is enough."""
    if len(sample.constant) == sample.d:
        refuse_constant(sample)


def refuse_few_rows(sample: SufficientStatistics) -> None:
    """An unrestricted Σ needs more rows than variables."""
    if sample.count <= sample.d:
        raise NotPositiveDefiniteError(
            f"{sample.name}: {counted(sample.count, 'row')} for {counted(sample.d, 'variable')}: the estimated "
            "covariance is singular; use more rows than "
            "variables, or a structure with fewer parameters (diagonal, low-rank)."
        )


def refuse_combination(sample: SufficientStatistics, covariance_matrix: Tensor, least: float | None = None) -> None:
    """A variable of which the others leave no more than rounding (or the share `least`) has no variance of its own."""
    d, scale = sample.d, covariance_matrix.diagonal().sqrt()
    root, info = torch.linalg.cholesky_ex(covariance_matrix / torch.outer(scale, scale))
    pivots = root.diagonal() ** 2
    weak = [i for i in range(d) if not pivots[i] > (least or 10 * d * torch.finfo(covariance_matrix.dtype).eps)]
    if int(info) or weak:
        last = int(info) - 1 if int(info) else weak[0]
        involved = checks.combination(covariance_matrix, list(range(last + 1)), sample.name_of)
        raise NotPositiveDefiniteError(
            f"{sample.name}: the estimated covariance is singular: {sample.name_of(last)} is, to rounding, a linear combination of "
            f"{involved}; leave one of them out."
        )


def require_pairs_observed(sample: SufficientStatistics, bandwidth: int | None = None) -> None:
    """An unrestricted Σ needs every two variables to be observed together: else the data say nothing about their covariance.

    bandwidth: only of variables that are not further apart.
    """
    never = (sample.pair_counts == 0).tril(-1)
    apart = (never if bandwidth is None else never.triu(-bandwidth)).nonzero().tolist()
    if apart:
        shown = "; ".join(f"{sample.name_of(j)} and {sample.name_of(i)}" for i, j in apart[:_SHOWN])
        more = f"; and {len(apart) - _SHOWN} pairs more" if len(apart) > _SHOWN else ""
        raise NotIdentifiedError(
            f"{sample.name}: never observed in the same row, so that the data say nothing about their covariance: {shown}{more}. "
            "Leave variables out, or fit a structure (low-rank, diagonal) that needs no such pair."
        )


def refuse_extreme(sample: SufficientStatistics) -> None:
    """Squares of the numbers must be numbers, too."""
    variances = sample.variances
    bad = ~torch.isfinite(variances) | (variances < torch.finfo(variances.dtype).tiny)
    bad[[*sample.constant, *sample.unobserved]] = False
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise NotFiniteError(
            f"{sample.name}: the variance of {sample.name_of(i)} is {variances[i].item()!r} in {variances.dtype}: its squares overflow "
            "or vanish; use other units."
        )


def refuse_unobserved(sample: SufficientStatistics) -> None:
    """A variable without a single value."""
    if sample.unobserved:
        named = ", ".join(map(sample.name_of, sample.unobserved))
        raise NotIdentifiedError(f"{sample.name}: {named}: there is no value at all; leave it out.")


def whole_number(name: str, option: str | None) -> int:
    """The option of a structure as a positive integer."""
    if option is None or not option.isdecimal() or int(option) < 1:
        raise ArgumentError(f"fit: the structure {name}:{option} needs a positive whole number there, as in {name}:2.")
    return int(option)
