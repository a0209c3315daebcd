"""What the data and the covariance are like: missing entries, and how many digits survive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.patterns import distinct

#: as many patterns of missing entries are shown
_PATTERNS = 12
#: as many variables of the nearly constant combination are named
_NAMED = 4


@dataclass(frozen=True)
class Pattern:
    """Rows that observe the same: how many, and (d,) what."""

    rows: int
    observed: list[bool]


@dataclass(frozen=True)
class Missing:
    """The largest patterns, and how many there are.

    Attributes:
        patterns: the largest first; count: of all; entries: how many are missing; share: of all entries.
        by_variable: (d,) how many rows do not have it.
    """

    patterns: list[Pattern]
    count: int
    entries: int
    share: float
    by_variable: list[int]


@dataclass(frozen=True)
class Conditioning:
    """The condition of Σ, and what it does to digits.

    Attributes:
        covariance: κ(Σ) as it stands; correlation: κ of the correlation matrix.
        eigenvalues: of the correlation matrix, descending.
        digits64, digits32: decimal digits of the scores that a κ of the correlation matrix leaves.
        combination: the standardised combination of variables that varies least, its largest terms: (variable, weight).
    """

    covariance: float
    correlation: float
    eigenvalues: list[float]
    digits64: float
    digits32: float
    combination: list[tuple[str, float]]


def missing_entries(x: Float[Tensor, "n d"]) -> Missing:
    """The patterns of NaN."""
    observed = ~x.isnan()
    patterns, of_row = distinct(observed.numpy())
    counts = torch.bincount(torch.from_numpy(of_row), minlength=len(patterns))
    largest = counts.argsort(descending=True, stable=True)[:_PATTERNS].tolist()
    gone = (~observed).sum(0)
    shown = [Pattern(int(counts[p]), patterns[p].tolist()) for p in largest]
    return Missing(shown, len(patterns), int(gone.sum()), float(gone.sum()) / observed.numel(), gone.tolist())


def conditioning(sigma: Float[Tensor, "d d"], names: Sequence[str]) -> Conditioning:
    """κ by eigenvalues; in each variable's own units it bounds the loss of a Cholesky factorisation, which sees no units.

    Source: van der Sluis 1969, *Condition numbers and equilibration of matrices*; Higham 2002, *Accuracy and Stability of
    Numerical Algorithms*, ch. 10.
    """
    scale = sigma.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(sigma / torch.outer(scale, scale))
    weights = vectors[:, 0]
    leading = weights.abs().argsort(descending=True)[:_NAMED].tolist()
    sign = 1.0 if float(weights[leading[0]]) > 0 else -1.0
    kappa = _ratio(values)
    return Conditioning(
        _ratio(torch.linalg.eigvalsh(sigma)),
        kappa,
        values.flip(0).tolist(),
        _digits(torch.float64, kappa),
        _digits(torch.float32, kappa),
        [(names[i], sign * float(weights[i])) for i in leading],
    )


def _ratio(ascending: Tensor) -> float:
    return float(ascending[-1] / ascending[0]) if float(ascending[0]) > 0 else math.inf


def _digits(dtype: torch.dtype, kappa: float) -> float:
    return max(0.0, -math.log10(torch.finfo(dtype).eps * kappa)) if math.isfinite(kappa) else 0.0
