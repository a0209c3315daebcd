"""BlockDiagonal: independent groups of variables, each with a covariance of any structure. All is each block's own."""

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
from mvnjac.covariance.structured.block_factor import BlockDiagonalFactor, block_diagonal
from mvnjac.covariance.structured.diagonal import Diagonal
from mvnjac.covariance.structured.isotropic import Isotropic
from mvnjac.covariance.structured.kronecker import Kronecker
from mvnjac.covariance.structured.low_rank import LowRank
from mvnjac.covariance.structured.parametric import Parametric
from mvnjac.errors import ArgumentError, DtypeError, NotPositiveDefiniteError, NotSymmetricError, ShapeError, counted
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Coordinates
from mvnjac.parameters.names import Names
from mvnjac.tensors.broadcasting import broadcast
from mvnjac.whitening.factor import Factor
from mvnjac.whitening.residuals import Residuals

Values = Mapping[str, Tensor]


class BlockDiagonal(Covariance):
    """Σ = diag(Σ₁, Σ₂, …): groups of variables that are independent of each other, one after the other.

    Args:
        blocks: the covariances of the groups, each any structure (also one of these; of `Parametric` one whose mean is not a
            function of its parameters). Their leading dimensions broadcast.
        sizes: the number of variables of each block, None where the block tells. Of one that does not (`Isotropic`) it may be left
            out: then it has the variables of the mean that the others leave.

    The parameters are the blocks' own, called `blocks[i].` and their names. With r and a = Σ⁻¹(x − µ) cut to the variables of a
    block, its derivatives are those that it has alone (log p is a sum over the blocks):

        ∂ log p / ∂θᵢ = ∂ log pᵢ / ∂θᵢ

    at the sum of the blocks' costs: nothing is as large as all variables squared.

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
        self.blocks = _valid_blocks(blocks)
        self.sizes = _valid_sizes(self.blocks, sizes)
        rest = sum(size for size in self.sizes if size is not None)
        self.fields = {
            _name(i, name): _kind(block, name, size, rest)
            for i, (block, size) in enumerate(zip(self.blocks, self.sizes, strict=True))
            for name in block.parameters
        }
        self.unidentified = tuple(_name(i, name) for i, block in enumerate(self.blocks) for name in block.unidentified)
        super().__init__(**{_name(i, name): t for i, block in enumerate(self.blocks) for name, t in block.parameters.items()})

    # --- one block at a time ----------------------------------------------------------------------------------------

    def in_group(self, parameter: str) -> tuple[int, str]:
        """The block that a parameter belongs to, and its name there."""
        prefix, _, name = parameter.partition("].")
        return int(prefix.removeprefix("blocks[")), name

    def groups(self, factor: BlockDiagonalFactor) -> list[tuple[slice, Covariance, Factor]]:
        return list(zip(factor.slices, self.blocks, factor.factors, strict=True))

    def _by_block(self, values: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """What of these belongs to which block, under its own names."""
        own: dict[int, dict[str, Tensor]] = {}
        for parameter, value in values.items():
            if parameter != "mean":
                i, name = self.in_group(parameter)
                own.setdefault(i, {})[name] = value
        return own

    def slices(self, d: int) -> list[slice]:
        """The variables of each block, out of d."""
        rest = d - sum(size for size in self.sizes if size is not None)
        found, first = [], 0
        for size in self.sizes:  # a plain loop, which every compiler of torch can trace
            last = first + (rest if size is None else size)
            found.append(slice(first, last))
            first = last
        return found

    @property
    def dimension(self) -> int | None:
        known = [size for size in self.sizes if size is not None]
        return sum(known) if len(known) == len(self.sizes) else None

    def parameter_batch(self, name: str) -> Size:
        i, own = self.in_group(name)
        return self.blocks[i].parameter_batch(own)

    def names_of(self, parameter: str, names: Names) -> Names:
        i, own = self.in_group(parameter)
        return self.blocks[i].names_of(own, names.part(self.slices(names.size)[i]))

    def at(self, values: Sequence[Tensor]) -> Self:
        remaining = iter(values)
        blocks = [block.at([next(remaining) for _ in block.parameters]) for block in self.blocks]
        return type(self)(blocks, self.sizes)

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Self:
        return type(self)([block.narrow(full, dim, index) for block in self.blocks], self.sizes)

    def evaluated(self) -> tuple[Tensor | None, Covariance]:
        blocks = [block.evaluated()[1] for block in self.blocks]
        same = all(new is old for new, old in zip(blocks, self.blocks, strict=True))
        return None, self if same else BlockDiagonal(blocks, self.sizes)

    def factor(self, d: int) -> BlockDiagonalFactor:
        slices = self.slices(d)
        sizes = [at.stop - at.start for at in slices]
        if min(sizes) < 1:
            raise ShapeError(
                f"BlockDiagonal: of {d} variables, {min(sizes)} are left for blocks[{sizes.index(min(sizes))}]; the blocks have the "
                f"sizes {self.sizes}."
            )
        return BlockDiagonalFactor([block.factor(size) for block, size in zip(self.blocks, sizes, strict=True)], slices)

    def pullback(self, name: str, rows: Residuals) -> Block:
        assert isinstance(rows.factor, BlockDiagonalFactor)
        i, own = self.in_group(name)
        return self.blocks[i].pullback(own, rows.part(rows.factor.slices[i], rows.factor.factors[i]))

    # --- second order -----------------------------------------------------------------------------------------------

    def fisher(self, factor: BlockDiagonalFactor, v: Values) -> dict[str, Tensor]:
        images = {i: self.blocks[i].fisher(factor.factors[i], own) for i, own in self._by_block(v).items()}
        return _joined(images)

    def fisher_solve(self, factor: BlockDiagonalFactor, gradients: Values) -> dict[str, Tensor]:
        """Of the blocks that have it in closed form over the parameters asked for."""
        solved = {i: self.blocks[i].fisher_solve(factor.factors[i], own) for i, own in self._by_block(gradients).items()}
        return _joined({i: change for i, change in solved.items() if change is not None})

    def times(self, factor: BlockDiagonalFactor, v: Tensor) -> Tensor:
        parts = zip(self.blocks, factor.factors, factor.slices, strict=True)
        products = [block.times(own, v[..., at]) for block, own, at in parts]
        batch = broadcast(*(product.shape[:-1] for product in products))
        return torch.cat([product.expand((*batch, product.shape[-1])) for product in products], -1)

    def redundant_among(self, names: Iterable[str]) -> bool:
        own = self._by_block(dict.fromkeys(name for name in names if name in self.fields))  # not those of a dense Σ
        return any(self.blocks[i].redundant_among(part) for i, part in own.items())

    def units(self, factor: BlockDiagonalFactor) -> dict[str, Tensor]:
        units = {i: dict(block.units(own) or _ones(block)) for i, (_, block, own) in enumerate(self.groups(factor))}
        means = [own.pop("mean", self._one_each(at)) for own, at in zip(units.values(), factor.slices, strict=True)]
        batch = broadcast(*(mean.shape[:-1] for mean in means))
        return {"mean": torch.cat([mean.expand((*batch, mean.shape[-1])) for mean in means], -1), **_joined(units)}

    def _one_each(self, at: slice) -> Tensor:
        return torch.ones(at.stop - at.start, dtype=self.dtype, device=self.device)

    def free_parameters(self, d: int) -> int:
        return sum(block.free_parameters(at.stop - at.start) for block, at in zip(self.blocks, self.slices(d), strict=True))

    def minimum_norm(self, factor: BlockDiagonalFactor, v: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {i: part for i, part in self._by_block(v).items() if self.blocks[i].redundant_among(part)}
        return {**v, **_joined({i: self.blocks[i].minimum_norm(factor.factors[i], part) for i, part in own.items()})}

    # --- what is given -----------------------------------------------------------------------------------------------

    def dense(self, d: int | None = None) -> Tensor:
        d = self.dimension if d is None else d
        if d is None:
            raise ShapeError("BlockDiagonal.dense: the number of variables is not known here; pass it: dense(d).")
        slices = self.slices(d)
        return block_diagonal([block.dense(at.stop - at.start) for block, at in zip(self.blocks, slices, strict=True)])

    def checks(self, factor: Factor) -> Iterator[Check]:
        assert isinstance(factor, BlockDiagonalFactor)
        for i, (block, own, at) in enumerate(zip(self.blocks, factor.factors, factor.slices, strict=True)):
            for check in block.all_checks(own):
                yield check.within(functools.partial(Names.part, at=at), f": blocks[{i}]")

    def all_checks(self, factor: Factor) -> Iterator[Check]:
        return self.checks(factor)  # of each block all

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


def _ones(block: Covariance) -> dict[str, Tensor]:
    return {name: torch.ones_like(value) for name, value in block.parameters.items()}


def _name(i: int, parameter: str) -> str:
    return f"blocks[{i}].{parameter}"


def _kind(block: Covariance, name: str, size: int | None, rest: int) -> Callable[[int], Coordinates]:
    return functools.partial(_coordinates, block, name, size, rest)


def _coordinates(block: Covariance, name: str, size: int | None, rest: int, d: int) -> Coordinates:
    return block.coordinates_of(name, d - rest if size is None else size)


def _joined(values: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {_name(i, name): value for i, own in values.items() for name, value in own.items()}


def _valid_blocks(blocks: Sequence[Covariance]) -> list[Covariance]:
    if not isinstance(blocks, Sequence) or not blocks:
        raise ArgumentError("BlockDiagonal: there are no blocks; pass a list of structures such as mvnjac.Dense(S).")
    for i, block in enumerate(blocks):
        if not isinstance(block, Covariance):
            raise DtypeError(
                f"BlockDiagonal: blocks[{i}] is a {type(block).__name__}; pass a structure such as mvnjac.Dense(S)."
            )
        if isinstance(block, Parametric) and block.mean is not None:
            raise ArgumentError(
                f"BlockDiagonal: the function of blocks[{i}] returns a mean, too; let it return Σ alone: the mean is given apart here."
            )
    return list(blocks)


def _valid_sizes(blocks: Sequence[Covariance], sizes: Sequence[int | None] | None) -> list[int | None]:
    """The number of variables of each block; None of at most one, which then has those that the others leave."""
    given = [None] * len(blocks) if sizes is None else list(sizes)
    if len(given) != len(blocks):
        raise ShapeError(f"BlockDiagonal: {counted(len(given), 'size')} for {counted(len(blocks), 'block')}.")
    for i, (block, size) in enumerate(zip(blocks, given, strict=True)):
        if size is not None and block.dimension not in (None, size):
            raise ShapeError(
                f"BlockDiagonal: sizes[{i}] is {size}, but blocks[{i}] is of {block.dimension} variables ({block!r})."
            )
    known = [block.dimension if size is None else size for block, size in zip(blocks, given, strict=True)]
    unknown = [f"blocks[{i}]" for i, size in enumerate(known) if size is None]
    if len(unknown) > 1:
        raise ShapeError(f"BlockDiagonal: the numbers of variables of {', '.join(unknown)} are not known; pass sizes=.")
    return known
