"""Nested covariance structures, and nested structures whose likelihood ratio is not χ²."""

from __future__ import annotations

from collections.abc import Callable

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.covariance.structured.autoregressive import Autoregressive
from mvnjac.covariance.structured.banded_precision import BandedPrecision
from mvnjac.covariance.structured.block_diagonal import BlockDiagonal
from mvnjac.covariance.structured.compound_symmetric import CompoundSymmetric
from mvnjac.covariance.structured.diagonal import Diagonal
from mvnjac.covariance.structured.isotropic import Isotropic
from mvnjac.covariance.structured.kronecker import Kronecker
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.covariance.structured.toeplitz import Toeplitz

#: (general, restricted) → whether every covariance of the second structure is one of the first
Rule = Callable[[Covariance, Covariance], bool]


def contains(general: Covariance, restricted: Covariance) -> bool:
    """Whether every Σ of the restricted structure (over the same variables) is one of the general structure."""
    if isinstance(general, DenseParametrisation):
        return True
    if isinstance(restricted, DenseParametrisation) or type(general) not in _RULES:
        return False
    return _RULES[type(general)](general, restricted)


def more_factors(general: Covariance, restricted: Covariance) -> bool:
    """Whether the general structure has more factors: then the additional loadings are not identified under the restriction,
    and the likelihood ratio is not χ² (Drton 2009, *Likelihood ratio tests and singularities*)."""
    if isinstance(general, BlockDiagonal):
        others = restricted.blocks if isinstance(restricted, BlockDiagonal) else [restricted] * len(general.blocks)
        return any(more_factors(block, other) for block, other in zip(general.blocks, others, strict=True))
    return isinstance(general, LowRank) and _factors(restricted) < general.rank


def _factors(covariance: Covariance) -> int:
    """The number of factors; 0 for independent variables."""
    return covariance.rank if isinstance(covariance, LowRank) else 0


def _only(*classes: type[Covariance]) -> Rule:
    return lambda general, restricted: isinstance(restricted, classes)


def _toeplitz(general: Covariance, restricted: Covariance) -> bool:
    return isinstance(restricted, Isotropic | CompoundSymmetric | Autoregressive | Toeplitz)


def _autoregressive(general: Covariance, restricted: Covariance) -> bool:
    return isinstance(restricted, Isotropic) or (
        isinstance(restricted, Autoregressive) and _order(restricted) <= _order(general)
    )


def _banded(general: Covariance, restricted: Covariance) -> bool:
    return isinstance(restricted, Isotropic | Diagonal) or (
        isinstance(restricted, Autoregressive | BandedPrecision) and _order(restricted) <= _order(general)
    )


def _low_rank(general: Covariance, restricted: Covariance) -> bool:
    return isinstance(restricted, Isotropic | Diagonal | LowRank) and _factors(restricted) <= _factors(general)


def _kronecker(general: Covariance, restricted: Covariance) -> bool:
    return isinstance(restricted, Isotropic) or (
        isinstance(restricted, Kronecker) and restricted.matrix_shape == general.matrix_shape
    )


def _blocks(general: Covariance, restricted: Covariance) -> bool:
    assert isinstance(general, BlockDiagonal)
    if isinstance(restricted, Isotropic | Diagonal):
        return all(contains(block, restricted) for block in general.blocks)
    if not isinstance(restricted, BlockDiagonal) or restricted.sizes != general.sizes:
        return False
    return all(contains(block, other) for block, other in zip(general.blocks, restricted.blocks, strict=True))


def _order(covariance: Covariance) -> int:
    """The order of an autoregression, or the bandwidth of a precision."""
    assert isinstance(covariance, Autoregressive | BandedPrecision)
    return covariance.order if isinstance(covariance, Autoregressive) else covariance.bandwidth


_RULES: dict[type[Covariance], Rule] = {
    Isotropic: _only(Isotropic),
    Diagonal: _only(Isotropic, Diagonal),
    CompoundSymmetric: _only(Isotropic, CompoundSymmetric),
    Toeplitz: _toeplitz,
    Autoregressive: _autoregressive,
    BandedPrecision: _banded,
    LowRank: _low_rank,
    Kronecker: _kronecker,
    BlockDiagonal: _blocks,
}
