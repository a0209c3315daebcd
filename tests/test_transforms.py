"""Every structure under every transform of PyTorch: the table (structure × transform), against a textbook density.

The reference is `tests.contract.reference.log_density` through `dense()`, differentiated in reverse (twice in reverse for
second order), which is right in every supported torch; where PyTorch's other ways are wrong is asserted at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.base import Maker
from tests.contract import reference

STRUCTURES = structures()
N, D = 4, 3
Arguments = tuple[Tensor, ...]


def arguments(name: str) -> Arguments:
    """x, mean, and the structure's parameters."""
    structure = next(iter(STRUCTURES[name].samples(D, Maker(seed=1))))
    return Maker(batch=(N,), seed=2).normal(D), Maker(seed=3).normal(D), *structure.parameters.values()


def directions(values: Arguments, seed: int = 4) -> Arguments:
    make = Maker(seed=seed)
    return tuple(make.normal(*value.shape) for value in values)


def ours(name: str) -> Callable[..., Tensor]:
    return lambda x, mean, *parameters: mvnjac.log_prob(x, mean, STRUCTURES[name](*parameters))


def free(name: str, values: Arguments) -> Arguments:
    """Each parameter as a function of all of its entries: symmetric, triangular, of fixed diagonal, as its coordinates say."""
    result = list(values[:2])
    for coordinates, value in zip(STRUCTURES[name].fields.values(), values[2:], strict=True):
        kind = coordinates(D)
        if kind.mirrored:
            value = 0.5 * (value + value.mT)
            if not kind.diagonal:
                value = value.tril(-1) + value.triu(1) + torch.eye(D, dtype=value.dtype)
        elif hasattr(kind, "diagonal"):
            value = value.tril()
        result.append(value)
    return tuple(result)


def textbook(name: str) -> Callable[..., Tensor]:
    def density(*values: Tensor) -> Tensor:
        x, mean, *parameters = free(name, values)
        return reference.log_density(x, mean, STRUCTURES[name](*parameters).dense(D))

    return density


def each_row(name: str, values: Arguments) -> Arguments:
    """(n, *shape) the gradient of each row by each argument, by reverse mode of the textbook density."""
    leaves = [v.clone().requires_grad_() for v in values]
    rows = [torch.autograd.grad(textbook(name)(*leaves)[i], leaves) for i in range(N)]
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def second(name: str, values: Arguments) -> list[Tensor]:
    """The blocks ∂²Σ log p / ∂u∂v, row of blocks by row of blocks, by reverse over reverse of the textbook density."""
    leaves = [v.clone().requires_grad_() for v in values]
    first = torch.autograd.grad(textbook(name)(*leaves).sum(), leaves, create_graph=True)
    blocks = []
    for gradient in first:
        for leaf in leaves:
            entries = [
                torch.autograd.grad(entry, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for entry in gradient.flatten()
            ]
            blocks.append(torch.stack(entries).reshape((*gradient.shape, *leaf.shape)))
    return blocks


def close(actual: object, expected: object, what: str = "") -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11, msg=lambda text: f"{what}: {text}")


# --- the columns of the table -----------------------------------------------------------------------------------------


def numbers(values: Arguments) -> tuple[int, ...]:
    return tuple(range(len(values)))


def total(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *values: f(*values).sum()


def flat(nested: object) -> list[Tensor]:
    return list(torch.utils._pytree.tree_leaves(nested))


def backward(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    leaves = [v.clone().requires_grad_() for v in values]
    f(*leaves).sum().backward()
    return [leaf.grad for leaf in leaves]


def compiled_backward(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    torch._dynamo.reset()
    return backward(torch.compile(f, fullgraph=True, backend="aot_eager"), values)


def compiled(transform: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    def run(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
        torch._dynamo.reset()
        return torch.compile(lambda *v: transform(f, v), fullgraph=True, backend="aot_eager")(*values)

    return run


def func_grad(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    return flat(grad(total(f), argnums=numbers(values))(*values))


def func_vjp(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    output, pull = vjp(f, *values)
    return flat(pull(torch.ones_like(output)))


TOTALS = {
    "backward": backward,
    "grad": func_grad,
    "vjp": func_vjp,
    "compile, backward": compiled_backward,
    "compile of grad": compiled(func_grad),
}


def by_vmap(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    """vmap(grad): the rows one by one, the rest shared."""
    x, *rest = values
    return flat(vmap(grad(f, argnums=numbers(values)), (0, *(None for _ in rest)))(x, *rest))


def by_two_vmaps(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    x, *rest = values
    shared = tuple(None for _ in rest)
    inner = vmap(grad(f, argnums=numbers(values)), (0, *shared))
    return [t.flatten(0, 1) for t in flat(vmap(inner, (0, *shared))(x.unflatten(0, (2, 2)), *rest))]


def by_stacked_parameters(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    """vmap over every argument, each row with parameters of its own."""
    x, *rest = values
    return flat(vmap(grad(f, argnums=numbers(values)))(x, *(v.expand(N, *v.shape).clone() for v in rest)))


def by_jacrev(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    blocks = flat(jacrev(f, argnums=numbers(values))(*values))
    return [blocks[0].diagonal().mT, *blocks[1:]]  # row n's density depends on row n of x


def by_jacfwd(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    blocks = flat(jacfwd(f, argnums=numbers(values))(*values))
    return [blocks[0].diagonal().mT, *blocks[1:]]


EACH_ROW = {
    "vmap(grad)": by_vmap,
    "vmap(vmap(grad))": by_two_vmaps,
    "vmap(grad), stacked": by_stacked_parameters,
    "jacrev": by_jacrev,
    "jacfwd": by_jacfwd,
    "compile of vmap(grad)": compiled(by_vmap),
}


def along_jvp(f: Callable[..., Tensor], values: Arguments, v: Arguments) -> Tensor:
    return jvp(f, values, v)[1]


def along_forward_ad(f: Callable[..., Tensor], values: Arguments, v: Arguments) -> Tensor:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(value, tangent) for value, tangent in zip(values, v, strict=True)]
        return forward_ad.unpack_dual(f(*duals)).tangent


def along_vmapped_jvp(f: Callable[..., Tensor], values: Arguments, v: Arguments) -> Tensor:
    stacked = tuple(torch.stack([t, 2 * t]) for t in v)
    result = vmap(lambda *t: jvp(f, values, t)[1])(*stacked)
    close(result[1], 2 * result[0])
    return result[0]


def along_compiled_jvp(f: Callable[..., Tensor], values: Arguments, v: Arguments) -> Tensor:
    torch._dynamo.reset()
    return torch.compile(lambda values, v: jvp(f, values, v)[1], fullgraph=True, backend="aot_eager")(values, v)


ALONG = {
    "jvp": along_jvp,
    "forward_ad": along_forward_ad,
    "vmap(jvp)": along_vmapped_jvp,
    "compile of jvp": along_compiled_jvp,
}


def double_backward(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    leaves = [v.clone().requires_grad_() for v in values]
    first = torch.autograd.grad(f(*leaves).sum(), leaves, create_graph=True)
    blocks = []
    for gradient in first:
        for leaf in leaves:
            entries = [torch.autograd.grad(e, leaf, retain_graph=True)[0] for e in gradient.flatten()]
            blocks.append(torch.stack(entries).reshape((*gradient.shape, *leaf.shape)))
    return blocks


def forward_over_backward(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    """torch.autograd's own forward mode over its own reverse mode, one entry at a time."""
    blocks = []
    for at, value in enumerate(values):
        columns = []
        for unit in torch.eye(value.numel(), dtype=value.dtype):
            with forward_ad.dual_level():
                leaves = [v.clone().requires_grad_() for v in values]
                leaves[at] = forward_ad.make_dual(leaves[at], unit.reshape(value.shape))
                first = torch.autograd.grad(f(*leaves).sum(), leaves, create_graph=True)
                columns.append([forward_ad.unpack_dual(g).tangent for g in first])
        blocks.append([torch.stack(c, -1).reshape((*c[0].shape, *value.shape)) for c in zip(*columns, strict=True)])
    return [column[row] for row in range(len(values)) for column in blocks]


def nested(outer: Callable, inner: Callable) -> Callable[..., list[Tensor]]:
    def run(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
        at = numbers(values)
        return flat(outer(inner(total(f), argnums=at), argnums=at)(*values))

    return run


def by_hessian(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    return flat(hessian(total(f), argnums=numbers(values))(*values))


def by_vmapped_hessian(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    """The rows one by one; their sum by the parameters, and row by row by x."""
    x, *rest = values
    k = len(values)
    blocks = flat(vmap(hessian(f, argnums=numbers(values)), (0, *(None for _ in rest)))(x, *rest))
    result = []
    for i, block in enumerate(blocks):
        row, column = divmod(i, k)
        if row == column == 0:
            result.append(torch.einsum("nij,nm->nimj", block, torch.eye(N, dtype=x.dtype)))
        elif column == 0:  # (n, *shape, d) → (*shape, n, d)
            result.append(block.movedim(0, -2))
        else:
            result.append(block if row == 0 else block.sum(0))
    return result


SECOND = {
    "create_graph": double_backward,
    "forward_ad over backward": forward_over_backward,
    "hessian": by_hessian,
    "jacrev(jacrev)": nested(jacrev, jacrev),
    "jacfwd(jacfwd)": nested(jacfwd, jacfwd),
    "jacrev(jacfwd)": nested(jacrev, jacfwd),
    "jacfwd(grad)": nested(jacfwd, grad),
    "vmap(hessian)": by_vmapped_hessian,
    "compile of hessian": compiled(by_hessian),
}


# --- the table --------------------------------------------------------------------------------------------------------

QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@QUIET
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("transform", TOTALS)
def test_totals(name: str, transform: str) -> None:
    values = arguments(name)
    rows = each_row(name, values)
    expected = [row.sum(0) for row in rows]
    for actual, wanted in zip(TOTALS[transform](ours(name), values), expected, strict=True):
        close(actual, wanted)


@QUIET
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("transform", EACH_ROW)
def test_each_row(name: str, transform: str) -> None:
    values = arguments(name)
    rows = each_row(name, values)
    expected = [torch.stack([rows[0][i, i] for i in range(N)]), *rows[1:]]
    for actual, wanted in zip(EACH_ROW[transform](ours(name), values), expected, strict=True):
        close(actual, wanted)


@QUIET
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("transform", ALONG)
def test_directional_derivatives(name: str, transform: str) -> None:
    values = arguments(name)
    v = directions(values)
    expected = sum((g * t).reshape(N, -1).sum(1) for g, t in zip(each_row(name, values), v, strict=True))
    close(ALONG[transform](ours(name), values, v), expected)


@QUIET
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("transform", SECOND)
def test_second_derivatives(name: str, transform: str) -> None:
    values = arguments(name)
    actual = SECOND[transform](ours(name), values)
    for i, (block, wanted) in enumerate(zip(actual, second(name, values), strict=True)):
        close(block, wanted, f"block {divmod(i, len(values))}")
