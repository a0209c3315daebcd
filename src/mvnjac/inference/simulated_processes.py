"""The covariance of cumulative scores whose columns have information at different times, and simulated processes with it.

With C(t) the covariance of the scores up to t by all estimated parameters and C = C(1), the cumulative scores S_g(t) of a group
g of columns have the covariance C_gg(t) − C_g·(t) C⁻¹ C_·g(t) if no parameter changes: S(t) is the residual of the scores up to
t in the regression on the total scores, with coefficients C_·(t) C⁻¹. The multiplier method (Hansen 1996, *Inference when a
nuisance parameter is not identified under the null hypothesis*, here with a pooled covariance) simulates it: the scores of each
row are replaced by normal ones with the same covariance, and the regression on their total is subtracted.

If no parameter changes, rows with the same pattern of observed variables have the same covariance. So the scores are
standardised by pattern, and the moments of two standardised scores are taken from all rows with information about both. The
covariance of the scores up to t alone would not do, since it is small wherever the scores happen to be small.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mvnjac.inference.pooled_covariance import PooledScores
from mvnjac.inference.process_statistics import GroupCovariances, times_inverse

#: size of a chunk of simulated processes, and the most bytes of simulated scores that are stored for further tests
_CHUNK_BYTES, _STORED_BYTES = 64 * 2**20, 256 * 2**20


@dataclass(eq=False)
class ProcessSimulation:
    """Simulates the cumulative scores of n rows at G dates.

    Attributes:
        scores: the scores with their pooled covariances.
        row_counts: (G,) the number of rows up to each date, ascending; the last is n.
        lag: rows up to this lag depend on each other.
        group_only: whether the columns of a group are treated as the only estimated ones.
        multipliers, seed: the number of simulated processes, and the seed.
    """

    scores: PooledScores
    row_counts: Tensor
    lag: int
    group_only: bool
    multipliers: int
    seed: int
    _groups: dict[tuple[int, ...], GroupCovariances] = field(default_factory=dict, repr=False)
    _normal_draws: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _joint_scores: list[Tensor] = field(default_factory=list, repr=False)

    @functools.cached_property
    def scale(self) -> Tensor:
        """(p,) the standard deviations of the total scores at the true parameters."""
        return self.scores.scale(self.lag)

    @functools.cached_property
    def cumulative(self) -> Tensor:
        """(n + 1, p) the cumulative scores, each divided by its `scale`."""
        found = self.scale.new_zeros(len(self.scores.scores) + 1, len(self.scale))
        torch.cumsum(self.scores.scores, 0, out=found[1:])
        return found.div_(self.scale)

    def group(self, columns: Sequence[int]) -> GroupCovariances:
        """The covariances of these columns; those of the latest group are stored."""
        key = tuple(columns)
        if key not in self._groups:
            self._groups.clear()
            self._groups[key] = self._group_covariances(list(columns))
        return self._groups[key]

    def _group_covariances(self, columns: list[int]) -> GroupCovariances:
        basis = columns if self.group_only else list(range(len(self.scale)))
        members = [basis.index(j) for j in columns]
        clock = self.scores.clock(columns)[self.row_counts - 1]
        needed = ((clock > 0) & (clock < 1)).any(-1) if self.group_only else torch.ones_like(clock[:, 0], dtype=torch.bool)
        needed[-1] = True
        row_counts = self.row_counts[needed]
        covariances = self._covariances(basis, row_counts) if self.group_only else self._all_covariances
        information, long_run, roots = covariances
        coefficients = times_inverse(information[:, members], information[-1])
        cross, total = coefficients @ long_run[:, members].mT, long_run[-1]
        covariance = long_run[:, members][:, :, members] - cross - cross.mT + coefficients @ total @ coefficients.mT
        total_covariance = total[members][:, members]
        cumulative = self.cumulative[row_counts][:, columns] * self.scale[columns]
        return GroupCovariances(
            members, row_counts, coefficients, roots, covariance, total_covariance, cumulative, clock[needed]
        )

    @functools.cached_property
    def _all_covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._covariances(list(range(len(self.scale))), self.row_counts)

    def _covariances(self, columns: list[int], row_counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(G, b, b) up to each date, the information and the covariance of the scores; and the roots of its increments."""
        information, long_run = self.scores.increments(columns, row_counts, self.lag)
        cumulative = information.cumsum(0)
        return cumulative, cumulative if long_run is information else long_run.cumsum(0), _roots(long_run)

    def processes(self, columns: Sequence[int]) -> Iterator[Tensor]:
        """(G, k, B′) simulated cumulative scores, in chunks; those of the latest group are stored if they are small."""
        group = self.group(columns)
        if group.simulated:
            yield from group.simulated
            return
        for scores in self._simulated_scores(group):
            process = scores[:, group.members].cumsum(0).sub_(group.coefficients.to(scores.dtype) @ scores.sum(0))
            if process.shape[-1] == self.multipliers:
                group.simulated.append(process)
            yield process

    def _simulated_scores(self, group: GroupCovariances) -> Iterator[Tensor]:
        """(G, b, B′) simulated scores between the dates; those of all columns jointly are stored if they are small."""
        if not self.group_only and self._joint_scores:
            yield from self._joint_scores
            return
        roots = group.increment_roots
        found: Iterator[Tensor] = (roots.to(draws) @ draws for draws in self._draws(*roots.shape[:2]))
        if not self.group_only and 8 * roots[..., 0].numel() * self.multipliers <= _STORED_BYTES:
            self._joint_scores.extend(found)
            found = iter(self._joint_scores)
        yield from found

    def _draws(self, dates: int, columns: int) -> Iterator[Tensor]:
        """(G, b, B′) standard normal draws: the first ones of those for all dates, so that groups share them."""
        chunk = max(1, _CHUNK_BYTES // (8 * len(self.row_counts) * columns))
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        if columns not in self._normal_draws and chunk >= self.multipliers:
            self._normal_draws = {columns: self._draw(columns, self.multipliers, generator)}
        if columns in self._normal_draws:
            yield self._normal_draws[columns][:dates].to(self.scale.device)
            return
        for first in range(0, self.multipliers, chunk):
            draws = self._draw(columns, min(chunk, self.multipliers - first), generator)
            yield draws[:dates].to(self.scale.device)

    def _draw(self, columns: int, count: int, generator: torch.Generator) -> Tensor:
        dtype = torch.float32 if self.group_only else torch.float64  # for many groups; single precision is enough for a p-value
        return torch.randn(len(self.row_counts), columns, count, generator=generator, dtype=dtype, device="cpu")


def _roots(increments: Tensor) -> Tensor:
    """(G, b, b) Cholesky factors; a column without information between two dates is 0."""
    uninformative = torch.diag_embed((increments.diagonal(dim1=-2, dim2=-1) == 0).to(increments.dtype))
    return torch.linalg.cholesky(increments + uninformative) - uninformative
