"""Whether two samples are the same observations: a few numbers that identify a sample, up to rounding and the order of its rows."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mvnjac.statistics.sufficient import SufficientStatistics

#: combinations of the variables whose means, scales and variances are taken
_COMBINATIONS = 6
#: two samples are the same where no number differs by more than this, in standard deviations, and by more than rounding
_TOLERANCE, _ROUNDING = 1e-9, 1e-12


@dataclass(frozen=True)
class Fingerprint:
    """Numbers that two samples share if they are the same observations with the same weights.

    Attributes:
        variables: d; weight: the sum of the weights of all rows with any entry (their number, where none were given).
        numbers: for some combinations of the variables: of the means in standard deviations, of the logarithms of the standard
            deviations, of the shares of observed entries, and the variance of that combination of the standardised variables.
        size: the largest mean, in standard deviations: rounding of the means is relative to it.
    """

    variables: int
    weight: float
    numbers: tuple[float, ...]
    size: float

    @classmethod
    def of(cls, sample: SufficientStatistics) -> Self:
        """That of a sample. It does not depend on the order of the rows but for rounding."""
        there = ~sample.rows.isnan()
        each = sample.weights.unsqueeze(-1) * there
        weight = each.sum(0)
        rows = sample.rows.masked_fill(~there, 0)
        shift = _quotient((each * rows).sum(0), weight)
        centred = (rows - shift) * _quotient(each, weight).sqrt()
        scale = (centred * centred).sum(0).sqrt()
        scale = torch.where(scale > 0, scale, 1)
        total = float(sample.weights[there.any(-1)].sum())
        mean, d = (sample.origin + shift) / scale, sample.d
        directions = _directions(d, mean)
        vectors = torch.stack([mean, scale.log(), weight / total])
        along = vectors @ directions.mT
        variances = ((centred / scale) @ directions.mT).square().sum(0)
        numbers = torch.cat([along.flatten(), variances]).tolist()
        return cls(d, total, tuple(numbers), float(vectors.abs().max()))

    def matches(self, other: Fingerprint) -> bool:
        """Whether both are of the same observations."""
        if self.variables != other.variables or not math.isclose(self.weight, other.weight, rel_tol=1e-12):
            return False
        bound = _TOLERANCE + _ROUNDING * max(self.size, other.size)
        return all(abs(a - b) <= bound * (1 + abs(a)) for a, b in zip(self.numbers, other.numbers, strict=True))

    def to_json(self) -> str:
        """As text, exactly."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` has written."""
        found = json.loads(text)
        return cls(found["variables"], found["weight"], tuple(found["numbers"]), found["size"])


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return a / torch.where(b > 0, b, 1)


def _directions(d: int, like: Tensor) -> Tensor:
    """(k, d) unit vectors, the same on every machine, without any symmetry between variables."""
    frequencies = torch.arange(1, _COMBINATIONS + 1, dtype=like.dtype, device=like.device).sqrt().unsqueeze(-1)
    places = torch.arange(1, d + 1, dtype=like.dtype, device=like.device)
    directions = (frequencies * places + frequencies * frequencies / 3).cos()
    return directions / directions.norm(dim=-1, keepdim=True)
