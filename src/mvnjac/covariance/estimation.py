"""The estimation part of a covariance structure: starting values, bounds and units of the search, errors without a maximum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mvnjac.covariance.named_parameters import NamedParameters
from mvnjac.errors import ArgumentError, NotFiniteError, NotIdentifiedError, NotPositiveDefiniteError, counted
from mvnjac.parameters import checks
from mvnjac.statistics.sufficient import SufficientStatistics

#: a variance below this share of the sample's that still decreases is at the boundary of the parameter space
VANISHED = 1e-8
#: a variance below this share is mentioned in the message of a search that failed
_NEAR = 1e-4
#: a bounded parameter stays above this share of the sample's variance
LOWER = 0.005
#: the largest number of pairs that a message lists
_SHOWN = 10


class Estimable(NamedParameters):
    """What `mvnjac.fit` needs of a structure. Everything except `start` has a default."""

    #: the placeholder in the manual for the option after the colon, such as RANK in "low-rank:RANK"; None without an option
    option: ClassVar[str | None] = None
    #: an abbreviation of the structure's name: "ar" for autoregressive
    short: ClassVar[str | None] = None
    #: whether `start` is already the maximum of the likelihood
    closed_form: ClassVar[bool] = False
    #: the parameters that are positive: the search moves their logarithms
    positive: ClassVar[tuple[str, ...]] = ()
    #: those positive parameters, with one entry per variable, that a fit keeps above a share of the sample's variances
    bounded: ClassVar[tuple[str, ...]] = ()
    #: the advice of the error message if a variance goes to 0
    advice: ClassVar[str] = "Leave variables out, take another structure, or start from an instance elsewhere."
    #: whether EM steps precede the search if entries are missing, and the search is over the Cholesky factor of Σ
    starts_with_em: ClassVar[bool] = False
    #: the parameters that are identified only by a convention: they have no standard errors
    unidentified: tuple[str, ...] = ()
    #: the parameter that scales Σ, for structures in which all variables have the same unit and no other parameter has a unit
    scaling: ClassVar[str | None] = None

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> Self:
        """Starting values of the search for the maximum of the likelihood, from the sample's `covariance`, `variances` or rows.

        option: the text after the colon of the structure's name; None for a class without an option.
        """
        raise ArgumentError(
            f"{sample.name}: {cls.__name__} defines no starting values; pass an instance of it, whose parameters are the start."
        )

    def require_maximum(self, sample: SufficientStatistics) -> None:
        """Raise if the likelihood of a structure of this size has no maximum, or no unique one, for this sample.

        The default requires that every variable varies; that one of them does, if all variances have a common scale.
        """
        if self.scaling is None or len(sample.constant) == sample.d:
            refuse_constant(sample)

    def require_interior(self, sample: SufficientStatistics, scores: Callable[[str], Tensor]) -> None:
        """Raise if a search reached the boundary: variances that go to 0 while the likelihood increases.

        scores: parameter name → the total scores with respect to its logarithm.
        """
        for name, shares in self._shares(sample):
            gone = ((shares < VANISHED) & (scores(name) < 0).reshape(shares.shape)).reshape(-1).nonzero().squeeze(-1).tolist()
            if gone:
                named = f"{name} of {', '.join(map(sample.name_of, gone))}" if shares.ndim else name
                raise NotPositiveDefiniteError(
                    f"{sample.name}: {named} goes to 0 and the likelihood increases on the way: it has no maximum with positive "
                    f"{name} near here. {self.advice}"
                )

    def near_edge(self, sample: SufficientStatistics) -> list[str]:
        """The parameters that are close to 0 after a search that did not converge, such as "cov_diag of 'HKD'"."""
        near = ((name, int(shares.argmin())) for name, shares in self._shares(sample) if float(shares.min()) < _NEAR)
        return [f"{name} of {sample.name_of(i)}" for name, i in near]

    def _shares(self, sample: SufficientStatistics) -> Iterator[tuple[str, Tensor]]:
        """Each positive parameter without a bound, as a share of the sample's variances."""
        for name in set(self.positive) - set(self.bounded):
            values = self.parameters[name]
            yield name, values / (sample.variances if values.shape == sample.variances.shape else sample.variances.mean())

    def rescaled(self, units: Tensor) -> Self | None:
        """diag(u) Σ diag(u) for u (d,) as `units_of` returns them; None if that is not a structure of the same kind."""
        if self.scaling is None:
            return None
        return type(self)(**{**self.parameters, self.scaling: self.parameters[self.scaling] * units[0] ** 2})

    def units_of(self, sample: SufficientStatistics) -> Tensor:
        """(d,) the units in which the search has variables of variance 1; equal for all variables if Σ has a common scale."""
        units = sample.variances.sqrt()
        return units if self.scaling is None else units.mean().expand(units.shape)

    @property
    def number_of_factors(self) -> int | None:
        """k of a factor model, which has a search of its own; None for other structures."""
        return None

    def independent_blocks(self, d: int) -> list[tuple[slice, Any]]:
        """Groups of the d variables that are independent of each other, with their structures, which are fitted one by one."""
        return []

    def with_blocks(self, blocks: Sequence[Any]) -> Self:
        """The same structure with other structures of its independent groups."""
        raise NotImplementedError(f"{type(self).__name__} has no independent groups of variables")

    def normalised(self) -> Self:
        """The same Σ with the parameters that a fit reports, if the parameters are not unique."""
        return self


def refuse_constant(sample: SufficientStatistics) -> None:
    """Raise if a variable is constant."""
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


def refuse_few_rows(sample: SufficientStatistics) -> None:
    """Raise if there are not more rows than variables, as an unrestricted Σ needs."""
    if sample.count <= sample.d:
        raise NotPositiveDefiniteError(
            f"{sample.name}: {counted(sample.count, 'row')} for {counted(sample.d, 'variable')}: the estimated covariance is singular; "
            "use more rows than variables, or a structure with fewer parameters (diagonal, low-rank)."
        )


def refuse_combination(sample: SufficientStatistics, covariance_matrix: Tensor, least: float | None = None) -> None:
    """Raise if a variable's variance given the others is below rounding, or below the share `least` of its variance."""
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
    """Raise if two variables are never observed in the same row: the data do not determine their covariance.

    bandwidth: check only pairs of variables at most this far apart.
    """
    never = (sample.pair_counts == 0).tril(-1)
    apart = (never if bandwidth is None else never.triu(-bandwidth)).nonzero().tolist()
    if apart:
        shown = "; ".join(f"{sample.name_of(j)} and {sample.name_of(i)}" for i, j in apart[:_SHOWN])
        more = f"; and {len(apart) - _SHOWN} more pairs" if len(apart) > _SHOWN else ""
        raise NotIdentifiedError(
            f"{sample.name}: never observed in the same row, so that the data say nothing about their covariance: {shown}{more}. "
            "Leave variables out, or fit a structure (low-rank, diagonal) that needs no such pair."
        )


def refuse_extreme(sample: SufficientStatistics) -> None:
    """Raise if a variance overflows or underflows."""
    variances = sample.variances
    bad = ~torch.isfinite(variances) | (variances < torch.finfo(variances.dtype).tiny)
    bad[[*sample.constant, *sample.unobserved]] = False
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise NotFiniteError(
            f"{sample.name}: the variance of {sample.name_of(i)} is {variances[i].item()!r} in {variances.dtype}: squares of the "
            "values overflow or underflow; use other units."
        )


def refuse_unobserved(sample: SufficientStatistics) -> None:
    """Raise if a variable has no observed value."""
    if sample.unobserved:
        named = ", ".join(map(sample.name_of, sample.unobserved))
        raise NotIdentifiedError(f"{sample.name}: {named}: there is no value at all; leave it out.")


def whole_number(name: str, option: str | None) -> int:
    """The option of a structure as a positive integer, for example 5 of "low-rank:5"."""
    if option is None or not option.isdecimal() or int(option) < 1:
        raise ArgumentError(f"fit: the structure {name}:{option} needs a positive whole number there, as in {name}:2.")
    return int(option)
