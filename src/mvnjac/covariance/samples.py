"""Random parameters and invalid inputs, with which a structure defines its own tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class BadInput:
    """An invalid input, and the error that it must raise.

    Args:
        parameters: the arguments of the structure's constructor.
        error: the class of the error.
        says: a regular expression that the message must match.
    """

    parameters: Mapping[str, Any]
    error: type[Exception]
    says: str


class Maker:
    """A generator of random parameters for sample instances.

    Args:
        dtype: of all results.
        batch: the leading dimensions of all results.
        seed: of the random numbers.

    Example:
        >>> from mvnjac.covariance import Maker
        >>> Maker(batch=(2,)).definite(3).shape
        torch.Size([2, 3, 3])
    """

    def __init__(self, dtype: torch.dtype = torch.float64, batch: Sequence[int] = (), seed: int = 0) -> None:
        self.dtype, self.batch = dtype, tuple(batch)
        self._generator = torch.Generator(device="cpu").manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """(*batch, *shape) standard normal numbers."""
        return torch.randn((*self.batch, *shape), generator=self._generator, dtype=torch.float64, device="cpu").to(self.dtype)

    def positive(self, *shape: int) -> Tensor:
        """(*batch, *shape) positive numbers between 1/2 and 2."""
        return torch.exp(0.35 * self.normal(*shape).clamp(-1.9, 1.9))

    def lower(self, d: int) -> Tensor:
        """(*batch, d, d) lower triangular matrices with a positive diagonal, moderately conditioned."""
        return 0.5 * self.normal(d, d).tril(-1) + torch.diag_embed(self.positive(d))

    def definite(self, d: int) -> Tensor:
        """(*batch, d, d) symmetric positive definite matrices."""
        lower = self.lower(d)
        product = lower @ lower.mT
        return 0.5 * (product + product.mT)

    def tensor(self, data: Any) -> Tensor:
        """The given numbers as a tensor, without the leading dimensions."""
        return torch.tensor(data, dtype=self.dtype, device="cpu")
