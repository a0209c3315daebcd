"""LowRank: a factor model, Σ = W Wᵀ + diag(v). The cost is O(n d k); neither Σ nor its inverse is formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mvnjac.blocks.base import Block, Entrywise
from mvnjac.blocks.outer import Outer
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import refuse_constant, whole_number
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.structured import factor_analysis
from mvnjac.covariance.structured.low_rank_factor import LowRankFactor as LowRankFactor
from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError, ShapeError
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.statistics.sufficient import SufficientStatistics
from mvnjac.tensors.tracing import constant_size
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals


class LowRank(Covariance):
    """Σ = W Wᵀ + diag(v): k common factors and an idiosyncratic variance of each variable.

    Args:
        cov_factor: (..., d, k) W, in units of x. It is identified only up to a rotation: W Q gives the same Σ for every
            orthogonal Q.
        cov_diag: (..., d) v, positive, in squared units of x.

    With a = Σ⁻¹(x − µ) by Woodbury's identity (chain rule on `Dense`):

        ∂ log p / ∂W = a (aᵀ W) − Σ⁻¹ W        ∂ log p / ∂vᵢ = ½ (aᵢ² − (Σ⁻¹)ᵢᵢ)

    Example:
        >>> import torch, mvnjac
        >>> W, v = torch.tensor([[1.0], [0.0]]), torch.ones(2)
        >>> J = mvnjac.jacobian(torch.ones(1, 2), torch.zeros(2), mvnjac.LowRank(W, v))
        >>> J.columns()[2:]
        ['cov_factor[0,0]', 'cov_factor[1,0]', 'cov_diag[0]', 'cov_diag[1]']
        >>> J["cov_factor"]
        tensor([[[-0.2500],
                 [ 0.5000]]])
    """

    fields = {"cov_factor": lambda d: Coordinates((d, 1), (0,)), "cov_diag": vector}
    phrases = {"cov_factor": "loading of {} on factor {}", "cov_diag": "unique variance of {}"}
    local = {"cov_factor": (0,), "cov_diag": (0,)}
    keeps_marginals = True
    special_case_of = ("LowRank",)

    def __init__(self, cov_factor: Float[Tensor, "*batch d k"], cov_diag: Float[Tensor, "*#batch d"]) -> None:
        super().__init__(cov_factor=cov_factor, cov_diag=cov_diag)
        self.unidentified = ("cov_factor",) if self.rank > 1 else ()  # a single factor is identified up to its sign

    @property
    def dimension(self) -> int | None:
        cov_diag = self.parameters["cov_diag"]
        return constant_size(cov_diag) if cov_diag.ndim else None

    @property
    def rank(self) -> int:
        """k, the number of factors."""
        return constant_size(self.parameters["cov_factor"])

    nesting_order = number_of_factors = rank

    def has_more_factors(self, other: Covariance) -> bool:
        return (other.rank if isinstance(other, LowRank) else 0) < self.rank

    def coordinates_of(self, name: str, d: int) -> Coordinates:
        if name == "cov_factor" and self.parameters["cov_factor"].ndim > 1:
            return Coordinates((d, self.rank), (0,))
        return self.fields[name](d)

    def factor(self, d: int) -> LowRankFactor:
        return LowRankFactor(self.parameters["cov_factor"], self.parameters["cov_diag"])

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Block:
        assert isinstance(rows.factor, LowRankFactor)
        a, factor = rows.scaled, rows.factor
        if name == "cov_diag":
            return Entrywise(torch.addcmul(-0.5 * factor.precision_diag, a, a, value=0.5), vector(rows.d))
        common = rows.whitened[..., rows.d :]  # aᵀ W = ŵ, which does not lose digits as that product does
        coordinates = Coordinates((rows.d, constant_size(factor.cov_factor)), (0,))
        return Outer(a, common, -factor.precision_factor, coordinates)

    def fisher(self, factor: LowRankFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With R = Σ⁻¹W and V = dΣ: Σ⁻¹ V R for W, ½ diag(Σ⁻¹ V Σ⁻¹) for v. O(d k²)."""
        R, W = factor.precision_factor, factor.cov_factor
        image, diagonal = torch.zeros_like(R), torch.zeros_like(factor.root)  # V R, and ½ diag(Σ⁻¹ V Σ⁻¹)
        if "cov_factor" in v:
            change = v["cov_factor"]
            image = image + change @ (W.mT @ R) + W @ (change.mT @ R)
            diagonal = diagonal + (factor.precision_times(change) * R).sum(-1)
        if "cov_diag" in v:
            change = v["cov_diag"].unsqueeze(-1)
            Q = factor.reduced / factor.root.unsqueeze(-1)  # Σ⁻¹ = diag(1/v) − Q Qᵀ
            leverage = (Q * Q).sum(-1)
            squared = (1 / factor.cov_diag - 2 * leverage) / factor.cov_diag * v["cov_diag"]
            image = image + change * R
            diagonal = diagonal + 0.5 * (squared + ((Q @ (Q.mT @ (change * Q))) * Q).sum(-1))
        return {"cov_factor": factor.precision_times(image), "cov_diag": diagonal}

    redundant = True

    def units(self, factor: LowRankFactor) -> dict[str, Tensor]:
        loadings = factor.root.unsqueeze(-1).expand(factor.cov_factor.shape)
        return {"mean": factor.root, "cov_factor": loadings, "cov_diag": factor.cov_diag}

    def minimum_norm(self, factor: LowRankFactor, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """v minus the nearest rotation W A, with A skew-symmetric: WᵀW A + A WᵀW = Wᵀv − vᵀW."""
        W, change = factor.cov_factor, v["cov_factor"]
        sizes, Q = torch.linalg.eigh(W.mT @ W)
        inner = W.mT @ change
        sums = sizes.unsqueeze(-1) + sizes.unsqueeze(-2)
        rotated = Q.mT @ (inner - inner.mT) @ Q
        skew = torch.where(sums > 0, rotated / torch.where(sums > 0, sums, 1), 0)
        return {**v, "cov_factor": change - W @ (Q @ skew @ Q.mT)}

    option, positive = "RANK", ("cov_diag",)
    bounded = ("cov_diag",)

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> LowRank:
        """k factors with loadings 0 and the sample variances: the search uses only the number of factors."""
        k = whole_number("low-rank", option)
        factor_analysis.require_identified(sample, k)
        refuse_constant(sample)
        return cls(sample.variances.new_zeros(sample.d, k), sample.variances)

    def require_maximum(self, sample: SufficientStatistics) -> None:
        factor_analysis.require_identified(sample, self.rank)
        refuse_constant(sample)

    def rescaled(self, units: Tensor) -> LowRank:
        return type(self)(self.parameters["cov_factor"] * units.unsqueeze(-1), self.parameters["cov_diag"] * units**2)

    def normalised(self) -> LowRank:
        """Wᵀ diag(v)⁻¹ W diagonal and descending; the correlations of the variables with each factor have a positive sum."""
        W, v = self.parameters["cov_factor"], self.parameters["cov_diag"]
        return type(self)(factor_analysis.principal_rotation(W, v), v)

    @property
    def redundant_directions(self) -> int:
        """The k (k − 1)/2 rotations of the factors (Lawley & Maxwell 1971, ch. 2)."""
        return self.rank * (self.rank - 1) // 2

    def times(self, factor: LowRankFactor, v: Tensor) -> Tensor:
        W = factor.cov_factor
        return v * factor.cov_diag + (W @ (W.mT @ v.unsqueeze(-1))).squeeze(-1)

    def dense(self, d: int | None = None) -> Tensor:
        W = self.parameters["cov_factor"]
        return W @ W.mT + torch.diag_embed(self.parameters["cov_diag"])

    def checks(self, factor: Factor) -> Iterator[Check]:
        yield checks.positive("cov_diag", self.parameters["cov_diag"])

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        yield cls(make.normal(d, max(d // 2, 1)), make.positive(d))
        yield cls(make.normal(d, d + 1), make.positive(d))

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(W: Sequence[Any], v: Sequence[float], error: type[Exception], says: str) -> BadInput:
            return BadInput({"cov_factor": make.tensor(W), "cov_diag": make.tensor(v)}, error, says)

        column = [[1.0], [0.0], [1.0]]
        yield bad(column, [1.0, 0, 1], NotPositiveDefiniteError, r"cov_diag entry 1 \(variable 1\) is 0")
        yield bad([[1.0], [float("nan")], [1.0]], [1.0, 1, 1], NotFiniteError, "cov_factor is nan")
        yield bad(
            column, [1.0, 1], ShapeError, r"cov_factor has shape \(3, 1\); expected \(\.\.\., d, 1\) with d = 2 as in cov_diag"
        )
        yield bad([1.0, 0, 1], [1.0, 1, 1], ShapeError, r"cov_factor has shape \(3,\)")
