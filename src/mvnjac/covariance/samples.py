"""What a structure brings to its own tests: random parameters, and inputs that must be refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class BadInput:
    """An input that must be refused: constructor arguments, and what the error must be and say."""

    parameters: Mapping[str, Any]
    error: type[Exception]
    says: str


class Maker:
    """Makes random parameters for samples: one dtype, one batch shape, one seed."""

    def __init__(self, dtype: torch.dtype = torch.float64, batch: Sequence[int] = (), seed: int = 0) -> None:
        self.dtype, self.batch = dtype, tuple(batch)
        self._generator = torch.Generator(device="cpu").manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """(*batch, *shape) standard normal numbers."""
        return torch.randn((*self.batch, *shape), generator=self._generator, dtype=torch.float64, device="cpu").to(self.dtype)

    def positive(self, *shape: int) -> Tensor:
        """(*batch, *shape) numbers between 1/2 and 2."""
        return torch.exp(0.35 * self.normal(*shape).clamp(-1.9, 1.9))

    def lower(self, d: int) -> Tensor:
        """(*batch, d, d) lower triangular with a positive diagonal, moderately conditioned."""
        return 0.5 * self.normal(d, d).tril(-1) + torch.diag_embed(self.positive(d))

    def definite(self, d: int) -> Tensor:
        """(*batch, d, d) symmetric positive definite."""
        lower = self.lower(d)
        product = lower @ lower.mT
        return 0.5 * (product + product.mT)

    def tensor(self, data: Any) -> Tensor:
        """These very numbers, without a batch."""
        return torch.tensor(data, dtype=self.dtype, device="cpu")
