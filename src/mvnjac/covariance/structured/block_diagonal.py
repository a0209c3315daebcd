"""BlockDiagonal: independent groups of variables, each with a covariance of any structure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import Block
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisations.cholesky import Cholesky
from mvnjac.covariance.parametrisations.dense import Dense
from mvnjac.covariance.parametrisations.precision import Precision
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.covariance.structured.block_arguments import valid_blocks, valid_sizes
from mvnjac.covariance.structured.block_factor import BlockDiagonalFactor, block_diagonal
from mvnjac.covariance.structured.diagonal import Diagonal
from mvnjac.covariance.structured.isotropic import Isotropic
from mvnjac.covariance.structured.kronecker import Kronecker
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.errors import ArgumentError, DtypeError, NotPositiveDefiniteError, NotSymmetricError, ShapeError
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Coordinates
from mvnjac.parameters.names import Names
from mvnjac.tensors.broadcasting import broadcast
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals

Values = Mapping[str, Tensor]


class BlockDiagonal(Covariance):
    """Σ = diag(Σ₁, Σ₂, …): consecutive groups of variables that are independent of each other.

    Args:
        blocks: the covariances of the groups, each of any structure, including `BlockDiagonal`, but not a `Parametric` whose
            function returns a mean. Their leading dimensions broadcast.
        sizes: the number of variables of each block; None for a block that determines it. One block that does not determine
            it, such as an `Isotropic`, may have None: it then has the variables of the mean that the other blocks leave.

    The parameters are those of the blocks, named `blocks[i].` followed by their name in the block. log p is a sum over the
    blocks, so that the derivatives are those of each block pᵢ with the corresponding variables of x and µ:

        ∂ log p / ∂θᵢ = ∂ log pᵢ / ∂θᵢ

    The cost is the sum of the costs of the blocks; no d×d array is formed.

    Example:
        >>> import torch, mvnjac
        >>> blocks = [mvnjac.Dense(torch.eye(2)), mvnjac.Isotropic(torch.tensor(2.0))]
        >>> J = mvnjac.jacobian(torch.ones(1, 4), torch.zeros(4), mvnjac.BlockDiagonal(blocks), names=["A", "B", "C", "D"])
        >>> J.columns()[5:]
        ['blocks[0].covariance_matrix[B,A]', 'blocks[0].covariance_matrix[B,B]', 'blocks[1].variance']
        >>> J["blocks[1].variance"]
        tensor([-0.2500])
    """

    fields = {}

    def __init__(self, blocks: Sequence[Covariance], sizes: Sequence[int | None] | None = None) -> None:
        self.blocks = valid_blocks(blocks)
        self.sizes = valid_sizes(self.blocks, sizes)
        rest = sum(size for size in self.sizes if size is not None)
        self.fields = {
            _name(i, name): functools.partial(_coordinates, block, name, size, rest)
            for i, (block, size) in enumerate(zip(self.blocks, self.sizes, strict=True))
            for name in block.parameters
        }
        self.phrases = {_name(i, name): phrase for i, block in enumerate(self.blocks) for name, phrase in block.phrases.items()}
        self.unidentified = tuple(_name(i, name) for i, block in enumerate(self.blocks) for name in block.unidentified)
        super().__init__(**{_name(i, name): t for i, block in enumerate(self.blocks) for name, t in block.parameters.items()})

    # --- blocks and their variables ---------------------------------------------------------------------------------

    def in_group(self, parameter: str) -> tuple[int, str]:
        """The number of the block that a parameter belongs to, and the parameter's name in that block."""
        prefix, _, name = parameter.partition("].")
        return int(prefix.removeprefix("blocks[")), name

    def contains(self, other: Covariance) -> bool:
        """A diagonal Σ is one of the structures in which each block may be diagonal."""
        if not isinstance(other, BlockDiagonal):
            return "Diagonal" in other.special_case_of and all(block.contains(other) for block in self.blocks)
        pairs = zip(self.blocks, other.blocks, strict=False)
        return other.sizes == self.sizes and all(block.contains(inner) for block, inner in pairs)

    def has_more_factors(self, other: Covariance) -> bool:
        others = other.blocks if isinstance(other, BlockDiagonal) else [other] * len(self.blocks)
        return any(block.has_more_factors(inner) for block, inner in zip(self.blocks, others, strict=True))

    def independent_blocks(self, d: int) -> list[tuple[slice, Any]]:
        return list(zip(self.slices(d), self.blocks, strict=True))

    def with_blocks(self, blocks: Sequence[Covariance]) -> Self:
        return type(self)(blocks, self.sizes)

    def stored_form(self) -> Any:
        return {"structure": "BlockDiagonal", "blocks": [block.stored_form() for block in self.blocks], "sizes": self.sizes}

    @classmethod
    def restored(cls, form: Any, tensors: Mapping[str, Tensor], restore: Callable[[Any, Mapping[str, Tensor]], Any]) -> Self:
        of_block = [
            {name.removeprefix(_name(i, "")): t for name, t in tensors.items() if name.startswith(_name(i, ""))}
            for i in range(len(form["blocks"]))
        ]
        return cls([restore(block, part) for block, part in zip(form["blocks"], of_block, strict=True)], form["sizes"])

    def groups(self, factor: BlockDiagonalFactor) -> list[tuple[slice, Covariance, Factor]]:
        return list(zip(factor.slices, self.blocks, factor.factors, strict=True))

    def _by_block(self, values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """Values by parameter, without "mean", grouped by block number, under the parameters' names in the block."""
        by_block: dict[int, dict[str, Any]] = {}
        for parameter, value in values.items():
            if parameter != "mean":
                i, name = self.in_group(parameter)
                by_block.setdefault(i, {})[name] = value
        return by_block

    def slices(self, d: int) -> list[slice]:
        """The variables of each block, out of d."""
        rest = d - sum(size for size in self.sizes if size is not None)
        slices, first = [], 0
        for size in self.sizes:  # a plain loop, which every compiler of torch can trace
            last = first + (rest if size is None else size)
            slices.append(slice(first, last))
            first = last
        return slices

    @property
    def dimension(self) -> int | None:
        known = [size for size in self.sizes if size is not None]
        return sum(known) if len(known) == len(self.sizes) else None

    def parameter_batch(self, name: str) -> Size:
        i, inner = self.in_group(name)
        return self.blocks[i].parameter_batch(inner)

    def names_of(self, parameter: str, names: Names) -> Names:
        i, inner = self.in_group(parameter)
        return self.blocks[i].names_of(inner, names.part(self.slices(names.size)[i]))

    def at(self, values: Sequence[Tensor]) -> Self:
        remaining = iter(values)
        return self.with_blocks([block.at([next(remaining) for _ in block.parameters]) for block in self.blocks])

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Self:
        return self.with_blocks([block.narrow(full, dim, index) for block in self.blocks])

    def evaluated(self) -> tuple[Tensor | None, Covariance]:
        blocks = [block.evaluated()[1] for block in self.blocks]
        same = all(new is old for new, old in zip(blocks, self.blocks, strict=True))
        return None, self if same else BlockDiagonal(blocks, self.sizes)

    def factor(self, d: int) -> BlockDiagonalFactor:
        slices = self.slices(d)
        sizes = [at.stop - at.start for at in slices]
        if min(sizes) < 1:
            raise ShapeError(
                f"BlockDiagonal: of {d} variables, {min(sizes)} are left for blocks[{sizes.index(min(sizes))}]; the sizes of the "
                f"blocks are {self.sizes}."
            )
        return BlockDiagonalFactor([block.factor(size) for block, size in zip(self.blocks, sizes, strict=True)], slices)

    def pullback(self, name: str, rows: Residuals) -> Block:
        assert isinstance(rows.factor, BlockDiagonalFactor)
        i, inner = self.in_group(name)
        return self.blocks[i].pullback(inner, rows.part(rows.factor.slices[i], rows.factor.factors[i]))

    # --- second order -----------------------------------------------------------------------------------------------

    def fisher(self, factor: BlockDiagonalFactor, v: Values) -> dict[str, Tensor]:
        return _joined({i: self.blocks[i].fisher(factor.factors[i], part) for i, part in self._by_block(v).items()})

    def fisher_solve(self, factor: BlockDiagonalFactor, gradients: Values) -> dict[str, Tensor]:
        """The solutions of the blocks that have one in closed form over the requested parameters."""
        by_block = self._by_block(gradients)
        solved = {i: self.blocks[i].fisher_solve(factor.factors[i], part) for i, part in by_block.items()}
        return _joined({i: change for i, change in solved.items() if change is not None})

    def times(self, factor: BlockDiagonalFactor, v: Tensor) -> Tensor:
        parts = zip(self.blocks, factor.factors, factor.slices, strict=True)
        return _concatenated([block.times(block_factor, v[..., at]) for block, block_factor, at in parts])

    def redundant_among(self, names: Iterable[str]) -> bool:
        by_block = self._by_block(dict.fromkeys(name for name in names if name in self.fields))  # not those of a dense Σ
        return any(self.blocks[i].redundant_among(part) for i, part in by_block.items())

    def units(self, factor: BlockDiagonalFactor) -> dict[str, Tensor]:
        units, means = {}, []
        for i, (at, block, block_factor) in enumerate(self.groups(factor)):
            units[i] = dict(block.units(block_factor) or {name: torch.ones_like(t) for name, t in block.parameters.items()})
            ones = torch.ones(at.stop - at.start, dtype=self.dtype, device=self.device)
            means.append(units[i].pop("mean", ones))
        return {"mean": _concatenated(means), **_joined(units)}

    def free_parameters(self, d: int) -> int:
        return sum(block.free_parameters(at.stop - at.start) for block, at in zip(self.blocks, self.slices(d), strict=True))

    def minimum_norm(self, factor: BlockDiagonalFactor, v: dict[str, Tensor]) -> dict[str, Tensor]:
        redundant = {i: part for i, part in self._by_block(v).items() if self.blocks[i].redundant_among(part)}
        return {**v, **_joined({i: self.blocks[i].minimum_norm(factor.factors[i], part) for i, part in redundant.items()})}

    # --- Σ, checks and samples --------------------------------------------------------------------------------------

    def dense(self, d: int | None = None) -> Tensor:
        slices = self.slices(self._known_dimension(d))
        return block_diagonal([block.dense(at.stop - at.start) for block, at in zip(self.blocks, slices, strict=True)])

    def checks(self, factor: Factor) -> Iterator[Check]:
        assert isinstance(factor, BlockDiagonalFactor)
        for i, (at, block, block_factor) in enumerate(self.groups(factor)):
            for check in block.all_checks(block_factor):
                yield check.within(functools.partial(Names.part, at=at), f": blocks[{i}]")

    def all_checks(self, factor: Factor) -> Iterator[Check]:
        return self.checks(factor)  # these are all checks of the blocks

    def __repr__(self) -> str:
        return f"BlockDiagonal([{', '.join(map(repr, self.blocks))}])"

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        if d == 1:
            yield cls([Isotropic(make.positive())])
            return
        h = (d + 1) // 2
        shared = Maker(make.dtype, seed=d)  # without leading dimensions
        yield cls([Dense(make.definite(h)), Isotropic(make.positive())])
        yield cls([LowRank(make.normal(d - h, 1), make.positive(d - h)), Cholesky(shared.lower(h))])
        if d > 2:
            nested = cls([Kronecker(make.definite(d - 2), shared.definite(1)), Isotropic(shared.positive())])
            yield cls([Precision(shared.definite(1)), nested])

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(blocks: Any, error: type[Exception], says: str, sizes: Sequence[int | None] | None = None) -> BadInput:
            return BadInput({"blocks": blocks, "sizes": sizes}, error, says)

        one, two = Diagonal(make.tensor([1.0])), Dense(make.tensor([[1.0, 0], [0, 1]]))
        isotropic = Isotropic(make.tensor(1.0))
        singular = Dense(make.tensor([[1.0, 1], [1, 1]]))
        yield bad(
            [one, singular], NotPositiveDefiniteError, r"blocks\[1\]: covariance_matrix .* pivot of variable 2 \(pivot 2 of 2\)"
        )
        yield bad(
            [cls([one, Diagonal(make.tensor([1.0, 0]))])], NotPositiveDefiniteError, r"blocks\[0\]: blocks\[1\]: .*variable 2\)"
        )
        yield bad([Dense(make.tensor([[1.0, 0], [0.5, 1]])), one], NotSymmetricError, r"blocks\[0\]: covariance_matrix")
        yield bad([two, two], ShapeError, "the covariance is of 4 variables")
        yield bad([one, two, isotropic], ShapeError, r"of 3 variables, 0 are left for blocks\[2\]")
        yield bad([isotropic, one, isotropic], ShapeError, r"numbers of variables of blocks\[0\], blocks\[2\] are not known")
        yield bad([isotropic, two], ShapeError, r"sizes\[1\] is 1, but blocks\[1\] is of 2 variables", (2, 1))
        yield bad([one, two], ShapeError, "1 size for 2 blocks", (1,))
        yield bad([], ArgumentError, "there are no blocks")
        yield bad([one, two.dense()], DtypeError, r"blocks\[1\] is a Tensor")


def _name(i: int, parameter: str) -> str:
    return f"blocks[{i}].{parameter}"


def _coordinates(block: Covariance, name: str, size: int | None, rest: int, d: int) -> Coordinates:
    return block.coordinates_of(name, d - rest if size is None else size)


def _joined(by_block: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The inverse of `_by_block`."""
    return {_name(i, name): value for i, values in by_block.items() for name, value in values.items()}


def _concatenated(vectors: Sequence[Tensor]) -> Tensor:
    """Vectors (*batch, dᵢ) one after the other, with their leading dimensions broadcast."""
    batch = broadcast(*(vector.shape[:-1] for vector in vectors))
    return torch.cat([vector.expand((*batch, vector.shape[-1])) for vector in vectors], -1)
