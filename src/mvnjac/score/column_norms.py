"""Sums of squared scores by column: the diagonal of JᵀJ, without the n×p matrix if the derivative is an outer product.

If a derivative is c u vᵀ + O for each row, the squares of its entry (i, j) sum over n rows to

    Σ (c uᵢ vⱼ + Oᵢⱼ)² = c² Σ uᵢ² vⱼ² + 2 c Oᵢⱼ Σ uᵢ vⱼ + n Oᵢⱼ²

which takes two matrix products. For approximately normal rows the scores vary at least as much as their constant part, and no
digits are lost. Otherwise (for a binary variable, for example) the terms may cancel, and the columns are squared instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.blocks.base import Block, Entrywise
from mvnjac.blocks.outer import Outer
from mvnjac.kernels import planner
from mvnjac.parameters.selection import Part
from mvnjac.score.evaluation import GeneralEvaluation

#: smallest admissible ratio of a sum to its positive terms: at most four digits cancel
_CANCELLATION = 1e-4


def sums_of_squares(evaluation: GeneralEvaluation, parts: Sequence[Part]) -> Tensor:
    """Σₙ J²ₙₖ (p,) for the columns of these parts; the evaluation is of rows (n, d) of one density."""
    with evaluation.model.arithmetic():
        return torch.cat([_of_part(evaluation, part) for part in parts])


def _of_part(evaluation: GeneralEvaluation, part: Part) -> Tensor:
    squares = _of_block(evaluation.block(part.name), part)
    return _of_columns(evaluation, part) if squares is None else part.take(squares)


def _of_block(block: Block, part: Part) -> Tensor | None:
    """The sums for all unique elements of a parameter; None if there is no closed form, or if it would lose digits."""
    if isinstance(block, Entrywise):
        values = part.coordinates.pack(block.values)
        return (values * values).sum(0)
    if not isinstance(block, Outer) or block.both or block.diagonal is not None or part.layout != "unique":
        return None
    left, right = block.left, block.right
    left_squares = left * left
    right_squares = left_squares if right is left else right * right
    products, squares = left.mT @ right, left_squares.mT @ right_squares
    return outer_squares(products, squares, block.offset_scale * block.offset, left.shape[0], block.coefficient, part)


def outer_squares(
    products: Tensor, squares: Tensor, offset: Tensor, count: int, coefficient: float, part: Part
) -> Tensor | None:
    """The sums for all unique elements from Σ u vᵀ, Σ u² v²ᵀ, O and n; None if too many digits cancel."""
    positive = coefficient**2 * squares + count * offset * offset
    total = positive + 2 * coefficient * offset * products
    positions = part.coordinates.positions(offset.device)
    free, multiplicity = part.coordinates.free(positions), part.coordinates.multiplicity(positions)
    total, positive = total.flatten()[positions], positive.flatten()[positions]
    if free is not None:
        total, positive = torch.where(free, total, 0), torch.where(free, positive, 0)
    if bool((total < _CANCELLATION * positive).any()):
        return None
    return total if multiplicity is None else total * multiplicity * multiplicity


def _of_columns(evaluation: GeneralEvaluation, part: Part) -> Tensor:
    """The sums from the columns themselves, in chunks of rows."""
    step = planner.rows_in(planner.CHUNK_BYTES, max(part.size, 1), 8)
    total = evaluation.model.mean.new_zeros(part.size, dtype=evaluation.model.working)
    for first in range(0, evaluation.rows.batch[0], step):
        columns = evaluation.narrow(0, slice(first, first + step)).columns(part)
        total += (columns * columns).sum(0)
    return total
