"""Σ of squared scores, column by column: the diagonal of JᵀJ, without n×p where the derivative is an outer product.

The entry (i, j) of c u vᵀ + O has, summed over n rows, the square

    Σ (c uᵢ vⱼ + Oᵢⱼ)² = c² Σ uᵢ² vⱼ² + 2 c Oᵢⱼ Σ uᵢ vⱼ + n Oᵢⱼ²

which is two matrix products. Scores vary at least as much as their constant part is large wherever rows are about normal; where
they do not (a variable of two values, say), the terms cancel, and the columns themselves are squared.
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

#: of the digits of a sum no more than these may cancel
_CANCELLED = 1e-4


def sums_of_squares(evaluation: GeneralEvaluation, parts: Sequence[Part]) -> Tensor:
    """(p,) Σ J²ₙₖ of the columns of these parts, rows (n, d) of one density."""
    with evaluation.model.arithmetic():
        return torch.cat([_of_part(evaluation, part) for part in parts])


def _of_part(evaluation: GeneralEvaluation, part: Part) -> Tensor:
    found = _of_block(evaluation.block(part.name), part)
    if found is None:
        return _of_columns(evaluation, part)
    return part.take(found)


def _of_block(block: Block, part: Part) -> Tensor | None:
    """By all unique elements of a parameter; None where there is no short way, or it would cost digits."""
    if isinstance(block, Entrywise):
        values = part.coordinates.pack(block.values)
        return (values * values).sum(0)
    if not isinstance(block, Outer) or block.both or block.diagonal is not None or part.layout != "unique":
        return None
    left, right = block.left, block.right
    left_squares = left * left
    right_squares = left_squares if right is left else right * right
    return outer_squares(
        left.mT @ right,
        left_squares.mT @ right_squares,
        block.offset_scale * block.offset,
        left.shape[0],
        block.coefficient,
        part,
    )


def outer_squares(
    products: Tensor, squares: Tensor, offset: Tensor, count: int, coefficient: float, part: Part
) -> Tensor | None:
    """By all unique elements, from Σ u vᵀ, Σ u² v²ᵀ, O and n; None where too many digits cancel."""
    certain = coefficient**2 * squares + count * offset * offset
    whole = certain + 2 * coefficient * offset * products
    positions = part.coordinates.positions(offset.device)
    free, multiplicity = part.coordinates.free(positions), part.coordinates.multiplicity(positions)
    chosen, terms = whole.flatten()[positions], certain.flatten()[positions]
    if free is not None:
        chosen, terms = torch.where(free, chosen, 0), torch.where(free, terms, 0)
    if bool((chosen < _CANCELLED * terms).any()):
        return None
    return chosen if multiplicity is None else chosen * multiplicity * multiplicity


def _of_columns(evaluation: GeneralEvaluation, part: Part) -> Tensor:
    """The columns of a few rows at a time."""
    rows = evaluation.rows.batch[0]
    step = planner.rows_in(planner.CHUNK_BYTES, max(part.size, 1), 8)
    total = evaluation.model.mean.new_zeros(part.size, dtype=evaluation.model.working)
    for first in range(0, rows, step):
        columns = evaluation.narrow(0, slice(first, first + step)).columns(part)
        total += (columns * columns).sum(0)
    return total
