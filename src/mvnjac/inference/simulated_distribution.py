"""The null distribution of a statistic from simulated values: p-values by rank, and by an exponential tail for the largest.

The statistics are quadratic forms in Gaussian processes, whose tails are exponential. A p-value by rank alone is at least 1/(B
+ 1), so a correction for many tests could never reject.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvnjac.inference.limiting_distributions import require_level

#: a p-value is taken from the rank if at least this many values are as large
_MIN_RANK = 10
#: the share of the values that the tail is fitted to
_TAIL_SHARE = 0.1


class SimulatedDistribution:
    """B values of a statistic that were simulated under the null hypothesis.

    Args:
        values: (B,) of a statistic with an exponential tail, as quadratic forms have.

    Source: Knijnenburg, Wessels, Reinders & Shmulevich 2009, *Fewer permutations, more accurate P-values*, with a known shape.
    """

    def __init__(self, values: Tensor) -> None:
        self._sorted = values.double().cpu().sort().values
        count = len(self._sorted)
        tail = max(int(_TAIL_SHARE * count), min(_MIN_RANK, count))
        self._share = tail / (count + 1)
        exceeding = self._sorted[count - tail :]
        self._threshold = float(exceeding[0])
        self._mean_excess = float((exceeding - self._threshold).mean())

    def p_value(self, statistic: float) -> float:
        """(1 + the number of values ≥ statistic)/(1 + B), or the probability of the tail with fewer than 10 such values."""
        count = len(self._sorted)
        larger = count - int(torch.searchsorted(self._sorted, torch.tensor(statistic, dtype=torch.float64, device="cpu")))
        by_rank = (1 + larger) / (count + 1)
        if larger >= _MIN_RANK or not self._mean_excess > 0 or statistic < self._threshold:
            return by_rank
        by_tail = self._share * math.exp(-(statistic - self._threshold) / self._mean_excess)
        return min(by_tail, by_rank + _MIN_RANK / (count + 1))

    def critical_value(self, level: float) -> float:
        """The statistic whose p-value is `level`."""
        require_level("critical_value", level)
        count = len(self._sorted)
        larger = math.floor(level * (count + 1)) - 1
        if larger >= _MIN_RANK or not self._mean_excess > 0:
            return float(self._sorted[count - 1 - max(larger, 0)])
        return self._threshold + self._mean_excess * math.log(self._share / level)


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction for several tests, valid under any dependence; NaN, for tests that were not possible, does not count.

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure* (R: `p.adjust`).
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = list(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = largest
    return corrected
