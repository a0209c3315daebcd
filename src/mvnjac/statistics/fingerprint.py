"""Fingerprints of samples: a few numbers that identify the observations, up to rounding and the order of the rows."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mvnjac.statistics.sufficient import SufficientStatistics

#: the number of linear combinations of the variables whose means, scales and variances are compared
_COMBINATIONS = 6
#: the tolerance of equal fingerprints, in standard deviations, and the allowance for rounding relative to the means
_TOLERANCE, _ROUNDING = 1e-9, 1e-12


@dataclass(frozen=True)
class Fingerprint:
    """Numbers that are equal for two samples with the same observations and weights.

    Attributes:
        variables: d.
        weight: the sum of the weights of all rows with an observed entry (their number, without weights).
        numbers: linear combinations, over the variables, of the means in standard deviations, of the logarithms of the standard
            deviations and of the shares of observed entries; and the variances of these combinations of standardised variables.
        size: the largest absolute value of the combined quantities, to which rounding is relative.
    """

    variables: int
    weight: float
    numbers: tuple[float, ...]
    size: float

    @classmethod
    def of(cls, sample: SufficientStatistics) -> Self:
        """The fingerprint of a sample. It does not depend on the order of the rows, except for rounding."""
        observed = ~sample.rows.isnan()
        weights = sample.weights.unsqueeze(-1) * observed
        weight = weights.sum(0)
        rows = sample.rows.masked_fill(~observed, 0)
        shift = _quotient((weights * rows).sum(0), weight)
        centred = (rows - shift) * _quotient(weights, weight).sqrt()
        scale = (centred * centred).sum(0).sqrt()
        scale = torch.where(scale > 0, scale, 1)
        total = float(sample.weights[observed.any(-1)].sum())
        mean, d = (sample.origin + shift) / scale, sample.d
        directions = _directions(d, mean)
        vectors = torch.stack([mean, scale.log(), weight / total])
        combined = vectors @ directions.mT
        variances = ((centred / scale) @ directions.mT).square().sum(0)
        numbers = torch.cat([combined.flatten(), variances]).tolist()
        return cls(d, total, tuple(numbers), float(vectors.abs().max()))

    def matches(self, other: Fingerprint) -> bool:
        """Whether both belong to the same observations."""
        if self.variables != other.variables or not math.isclose(self.weight, other.weight, rel_tol=1e-12):
            return False
        bound = _TOLERANCE + _ROUNDING * max(self.size, other.size)
        return all(abs(a - b) <= bound * (1 + abs(a)) for a, b in zip(self.numbers, other.numbers, strict=True))

    def to_json(self) -> str:
        """The fingerprint as JSON, without loss of precision."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The fingerprint written by `to_json`."""
        fields = json.loads(text)
        return cls(fields["variables"], fields["weight"], tuple(fields["numbers"]), fields["size"])


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return a / torch.where(b > 0, b, 1)


def _directions(d: int, like: Tensor) -> Tensor:
    """(k, d) unit vectors, the same on every machine, without symmetry between variables."""
    frequencies = torch.arange(1, _COMBINATIONS + 1, dtype=like.dtype, device=like.device).sqrt().unsqueeze(-1)
    positions = torch.arange(1, d + 1, dtype=like.dtype, device=like.device)
    directions = (frequencies * positions + frequencies * frequencies / 3).cos()
    return directions / directions.norm(dim=-1, keepdim=True)
