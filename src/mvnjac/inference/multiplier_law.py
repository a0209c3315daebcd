"""The law of a statistic, from its values under random multipliers: p-values by rank, beyond the largest ranks by an exponential tail.

The statistics are quadratic forms in Gaussian processes, whose tails are exponential. A rank alone is at least 1/(B + 1), with which
a correction over many tests could never reject.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError

#: a rank is taken where at least so many values are as large
_RANKED = 10
#: the share of the values that the tail is fitted to
_TAIL = 0.1


class MultiplierLaw:
    """B values of a statistic that were simulated under the null hypothesis.

    Args:
        values: (B,) of a statistic whose tail is exponential, as that of a quadratic form is.

    Source: Knijnenburg, Wessels, Reinders & Shmulevich 2009, *Fewer permutations, more accurate P-values*, with the shape of the
    tail known.
    """

    def __init__(self, values: Tensor) -> None:
        self._sorted = values.double().cpu().sort().values
        count = len(self._sorted)
        tail = max(int(_TAIL * count), min(_RANKED, count))
        self._share = tail / (count + 1)
        beyond = self._sorted[count - tail :]
        self._from = float(beyond[0])
        self._mean_excess = float((beyond - self._from).mean())

    def p_value(self, statistic: float) -> float:
        """P(a value ≥ statistic): (1 + how many values are)/(1 + B), or the tail's where fewer than 10 are."""
        count = len(self._sorted)
        larger = count - int(torch.searchsorted(self._sorted, torch.tensor(statistic, dtype=torch.float64, device="cpu")))
        ranked = (1 + larger) / (count + 1)
        if larger >= _RANKED or not self._mean_excess > 0 or statistic < self._from:
            return ranked
        return min(self._share * math.exp(-(statistic - self._from) / self._mean_excess), ranked + _RANKED / (count + 1))

    def critical_value(self, level: float) -> float:
        """The statistic whose p-value is `level`."""
        if not 0 < level < 1:
            raise ArgumentError(f"critical_value: level is {level!r}; expected a probability between 0 and 1.")
        count = len(self._sorted)
        larger = math.floor(level * (count + 1)) - 1
        if larger >= _RANKED or not self._mean_excess > 0:
            return float(self._sorted[count - 1 - max(larger, 0)])
        return self._from + self._mean_excess * math.log(self._share / level)


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction of p-values over several tests, whatever their dependence; NaN, of what was not tested, does not count.

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure* (R: `p.adjust`).
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = largest
    return corrected
