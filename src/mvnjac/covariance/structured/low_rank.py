"""LowRank: a factor model, Σ = W Wᵀ + diag(v). All is O(n d k): Σ and its inverse are never formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float
from torch import Size, Tensor

from mvnjac.blocks.base import Block, Entrywise
from mvnjac.blocks.outer import Outer
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.estimation import refuse_constant, whole_number
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.structured import factor_analysis
from mvnjac.errors import NotFiniteError, NotPositiveDefiniteError, ShapeError
from mvnjac.linalg import factor_model
from mvnjac.linalg.triangular import cholesky, solve_rows
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Coordinates, vector
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast, narrow
from mvnjac.tensors.tracing import constant_size, is_traced
from mvnjac.whitening.factor import DenseFactor, Factor, Rows
from mvnjac.whitening.residuals import Residuals

if TYPE_CHECKING:
    from mvnjac.statistics.sufficient import SufficientStatistics


class LowRankFactor(Factor):
    """Woodbury's identity, in each variable's own units: B = diag(v)^-½ W, C = I + BᵀB = M Mᵀ (k×k).

    With u = diag(v)^-½ r, the k factors are estimated by ŵ = C⁻¹ Bᵀ u, what they leave is e = u − B ŵ, and

        Σ⁻¹ r = diag(v)^-½ e,        rᵀ Σ⁻¹ r = ‖e‖² + ‖ŵ‖²

    a sum of squares, so that float32 keeps its digits.
    """

    def __init__(self, cov_factor: Tensor, cov_diag: Tensor) -> None:
        self.cov_factor, self.cov_diag = cov_factor, cov_diag
        self.batch = broadcast(batch_shape(cov_factor, 2), batch_shape(cov_diag, 1))
        self._views: dict[str, Tensor] = {}
        self._dense: DenseFactor | None = None

    def tensors(self) -> list[Tensor]:
        return [self.cov_factor, self.cov_diag]

    @property
    def root(self) -> Tensor:
        """(*batch, d) √v."""
        return self.view("root", self.cov_diag.sqrt)

    @property
    def loading(self) -> Tensor:
        """(*batch, d, k) B, the factor in units of the idiosyncratic standard deviations."""
        return self.view("loading", lambda: self.cov_factor / self.root.unsqueeze(-1))

    @property
    def capacitance_tril(self) -> Tensor:
        """(*batch, k, k) M, lower triangular, M Mᵀ = I + Bᵀ B."""
        return self.view("capacitance_tril", lambda: cholesky(_identity(self.loading) + self.loading.mT @ self.loading)[0])

    @property
    def reduced(self) -> Tensor:
        """(*batch, d, k) B M⁻ᵀ: its rows' squares are the leverages of the variables."""
        return self.view("reduced", lambda: solve_rows(self.loading, self.capacitance_tril))

    @property
    def precision_factor(self) -> Tensor:
        """(*batch, d, k) R = Σ⁻¹ W = diag(v)^-½ B C⁻¹."""
        return self.view("precision_factor", self._precision_factor)

    def _precision_factor(self) -> Tensor:
        return solve_rows(self.reduced, self.capacitance_tril, transposed=True) / self.root.unsqueeze(-1)

    @property
    def precision_diag(self) -> Tensor:
        """(*batch, d) the diagonal of Σ⁻¹."""
        return self.view("precision_diag", lambda: (1 - (self.reduced * self.reduced).sum(-1)) / self.cov_diag)

    def precision_times(self, X: Tensor) -> Tensor:
        """Σ⁻¹ X for X (..., d, m), the capacitance's way."""
        u = X / self.root.unsqueeze(-1)
        return (u - self.reduced @ (self.reduced.mT @ u)) / self.root.unsqueeze(-1)

    @property
    def log_det(self) -> Tensor:
        pivots = self.capacitance_tril.diagonal(dim1=-2, dim2=-1)
        return self.cov_diag.log().sum(-1) + 2 * pivots.log().sum(-1)

    def whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        """(…, d + k): e and ŵ, whose square is that of L⁻¹ r."""
        B, d = layout.fold_params(self.loading, 2), rows.shape[-1]
        z = None if is_traced(rows, *self.tensors()) else rows.new_empty((*rows.shape[:-1], d + B.shape[-1]))
        u = torch.div(rows, layout.fold_params(self.root, 1).unsqueeze(-2), out=None if z is None else z[..., :d])
        estimate = self.estimate(u @ B, layout)
        subtract = torch.addmm if u.ndim == 2 else torch.baddbmm
        if z is None:
            return torch.cat([subtract(u, estimate, B.mT, alpha=-1), estimate], -1)
        subtract(u, estimate, B.mT, alpha=-1, out=u)  # e, where u was
        z[..., d:] = estimate
        return z

    def estimate(self, projections: Tensor, layout: RowLayout) -> Tensor:
        """ŵ = C⁻¹ Bᵀ u for each row's Bᵀ u (…, k)."""
        M = layout.fold_params(self.capacitance_tril, 2)
        return solve_rows(solve_rows(projections, M), M, transposed=True)

    def reverse_whiten(self, rows: Tensor, layout: RowLayout) -> Tensor:
        return self.whiten(rows, layout)

    unwhitens = True

    def unwhiten(self, z: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        root = layout.fold_params(self.root, 1)
        return torch.div(z[..., : root.shape[-1]], root.unsqueeze(-2), out=out)

    def solve(self, rows: Tensor, layout: RowLayout, out: Tensor | None = None) -> Tensor:
        return self.unwhiten(self.whiten(rows, layout), layout, out)

    def squares(self, rows: Rows) -> Tensor:
        estimate = self._estimate_of(rows)
        squares = (estimate * estimate).sum(-1)
        factor_model.add_squares(rows.x, rows.mean, self.root, self.loading, estimate, squares)
        return squares

    def squares_and_totals(self, rows: Rows, weights: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        estimate = self._estimate_of(rows)
        squares, count = (estimate * estimate).sum(-1), len(estimate) if weights is None else weights.sum()
        by_mean, by_diag, by_factor = factor_model.residual_sums(
            rows.x, rows.mean, self.root, self.loading, estimate, squares, weights
        )
        totals = {
            "mean": by_mean / self.root,
            "cov_factor": by_factor / self.root.unsqueeze(-1) - count * self.precision_factor,
            "cov_diag": 0.5 * (by_diag / self.cov_diag - count * self.precision_diag),
        }
        return squares, totals

    def _estimate_of(self, rows: Rows) -> Tensor:
        """(n, k) ŵ, once for value and totals."""

        def compute() -> Tensor:
            projections = factor_model.projections(rows.x, rows.mean, self.root, self.loading)
            return self.estimate(projections, RowLayout(rows.batch, self.batch))

        return rows.cached("estimate", compute)

    def dense(self) -> DenseFactor:
        if self._dense is None:
            W = self.cov_factor
            covariance_matrix = W @ W.mT + torch.diag_embed(self.cov_diag)
            covariance_matrix = 0.5 * (covariance_matrix + covariance_matrix.mT)
            scale_tril, info = cholesky(covariance_matrix)
            self._dense = DenseFactor(info, covariance_matrix=covariance_matrix, scale_tril=scale_tril)
        return self._dense

    def detach(self) -> LowRankFactor:
        _ = self.capacitance_tril  # factorised here, if it was not yet: once for both
        other = LowRankFactor(self.cov_factor.detach(), self.cov_diag.detach())
        other.checked, other._views = self.checked, {name: view.detach() for name, view in self._views.items()}
        return other

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> LowRankFactor:
        if dim < len(full) - len(self.batch):
            return self
        part = LowRankFactor(narrow(self.cov_factor, full, 2, dim, index), narrow(self.cov_diag, full, 1, dim, index))
        part.checked = self.checked
        return part


class LowRank(Covariance):
    """Σ = W Wᵀ + diag(v): k common factors and a variance of each variable's own.

    Args:
        cov_factor: (..., d, k) W, in units of x. It is known only up to a rotation: W Q has the same Σ for every orthogonal Q.
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
    local = {"cov_factor": (0,), "cov_diag": (0,)}
    keeps_marginals = True

    def __init__(self, cov_factor: Float[Tensor, "*batch d k"], cov_diag: Float[Tensor, "*#batch d"]) -> None:
        super().__init__(cov_factor=cov_factor, cov_diag=cov_diag)
        self.unidentified = ("cov_factor",) if self.rank > 1 else ()  # of one factor only the sign is a convention

    @property
    def dimension(self) -> int | None:
        cov_diag = self.parameters["cov_diag"]
        return constant_size(cov_diag) if cov_diag.ndim else None

    @property
    def rank(self) -> int:
        """k, the number of factors."""
        return constant_size(self.parameters["cov_factor"])

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
        common = rows.whitened[..., rows.d :]  # aᵀ W is ŵ; as that product it would lose its digits
        kind = Coordinates((rows.d, constant_size(factor.cov_factor)), (0,))
        return Outer(a, common, -factor.precision_factor, kind)

    def fisher(self, factor: LowRankFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With R = Σ⁻¹W and V = dΣ: by W, Σ⁻¹ V R; by v, ½ diag(Σ⁻¹ V Σ⁻¹). O(d k²)."""
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
        """Less the rotation W A, A skew, nearest to it: WᵀW A + A WᵀW = Wᵀv − vᵀW."""
        W, change = factor.cov_factor, v["cov_factor"]
        sizes, Q = torch.linalg.eigh(W.mT @ W)
        inner = W.mT @ change
        sums = sizes.unsqueeze(-1) + sizes.unsqueeze(-2)
        turned = Q.mT @ (inner - inner.mT) @ Q
        skew = torch.where(sums > 0, turned / torch.where(sums > 0, sums, 1), 0)
        return {**v, "cov_factor": change - W @ (Q @ skew @ Q.mT)}

    option, positive = "RANK", ("cov_diag",)
    bounded = ("cov_diag",)

    @classmethod
    def start(cls, sample: SufficientStatistics, option: str | None) -> LowRank:
        """k factors without loadings, and all of the variances: the search chooses its own starts by the number of factors."""
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
        """WᵀD⁻¹W diagonal, descending; the correlations with every factor of a positive sum."""
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


def _identity(B: Tensor) -> Tensor:
    return torch.eye(B.shape[-1], dtype=B.dtype, device=B.device)
