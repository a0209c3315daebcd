"""Every structure under every transform of PyTorch, compared with a textbook density.

The reference is `tests.covariance.reference.log_density` of `dense()`, differentiated by reverse mode (twice for second order),
which is correct in every supported torch. Tests at the end assert where PyTorch's other modes are wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from tests.covariance import reference
from tests.support import compilers
from tests.support.speed import mostly_slow

STRUCTURES = structures()
N, D = 4, 3
Arguments = tuple[Tensor, ...]


@functools.cache
def instance(name: str) -> mvnjac.Covariance:
    return next(iter(STRUCTURES[name].samples(D, Maker(seed=1))))


def arguments(name: str) -> Arguments:
    """x, mean, and the structure's parameters."""
    return Maker(batch=(N,), seed=2).normal(D), Maker(seed=3).normal(D), *instance(name).parameters.values()


def directions(values: Arguments, seed: int = 4) -> Arguments:
    make = Maker(seed=seed)
    return tuple(make.normal(*value.shape) for value in values)


def ours(name: str) -> Callable[..., Tensor]:
    structure = instance(name)
    return lambda x, mean, *parameters: mvnjac.log_prob(x, mean, structure.at(parameters))


def free(name: str, values: Arguments) -> Arguments:
    """Each parameter as a function of all its entries: made symmetric, triangular or of fixed diagonal by its coordinates."""
    result = list(values[:2])
    for parameter, value in zip(instance(name).parameters, values[2:], strict=True):
        coordinates = instance(name).coordinates_of(parameter, D)
        if coordinates.mirrored:
            value = 0.5 * (value + value.mT)
            if not coordinates.diagonal:
                value = value.tril(-1) + value.triu(1) + torch.eye(coordinates.d, dtype=value.dtype)
        elif hasattr(coordinates, "diagonal"):
            value = value.tril()
        result.append(value)
    return tuple(result)


def textbook(name: str) -> Callable[..., Tensor]:
    def density(*values: Tensor) -> Tensor:
        x, mean, *parameters = free(name, values)
        return reference.log_density(x, mean, instance(name).at(parameters).dense(D))

    return density


def each_row(density: Callable[..., Tensor], values: Arguments) -> Arguments:
    """The gradient (n, *shape) of each row with respect to each argument, by reverse mode of a textbook density."""
    leaves = [v.clone().requires_grad_() for v in values]
    rows = [torch.autograd.grad(density(*leaves)[i], leaves) for i in range(N)]
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def second(density: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    """The blocks ∂²Σ log p / ∂u∂v in row-major order, by reverse over reverse mode of a textbook density."""
    leaves = [v.clone().requires_grad_() for v in values]
    first = torch.autograd.grad(density(*leaves).sum(), leaves, create_graph=True)
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


# --- the transforms ---------------------------------------------------------------------------------------------------


def argnums(values: Arguments) -> tuple[int, ...]:
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
    return flat(grad(total(f), argnums=argnums(values))(*values))


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
    """vmap(grad) over the rows; the other arguments are shared."""
    x, *rest = values
    return flat(vmap(grad(f, argnums=argnums(values)), (0, *(None for _ in rest)))(x, *rest))


def by_two_vmaps(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    x, *rest = values
    shared = tuple(None for _ in rest)
    inner = vmap(grad(f, argnums=argnums(values)), (0, *shared))
    return [t.flatten(0, 1) for t in flat(vmap(inner, (0, *shared))(x.unflatten(0, (2, 2)), *rest))]


def by_stacked_parameters(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    """vmap over every argument, with one parameter per row."""
    x, *rest = values
    return flat(vmap(grad(f, argnums=argnums(values)))(x, *(v.expand(N, *v.shape).clone() for v in rest)))


def by_jacrev(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    blocks = flat(jacrev(f, argnums=argnums(values))(*values))
    return [blocks[0].diagonal().mT, *blocks[1:]]  # row n's density depends on row n of x


def by_jacfwd(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    blocks = flat(jacfwd(f, argnums=argnums(values))(*values))
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
    """torch.autograd's forward mode over its reverse mode, one entry at a time."""
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
        at = argnums(values)
        return flat(outer(inner(total(f), argnums=at), argnums=at)(*values))

    return run


def by_hessian(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    return flat(hessian(total(f), argnums=argnums(values))(*values))


def by_vmapped_hessian(f: Callable[..., Tensor], values: Arguments) -> list[Tensor]:
    """vmap over the rows: blocks for parameters are summed over rows, blocks for x are placed row by row."""
    x, *rest = values
    k = len(values)
    blocks = flat(vmap(hessian(f, argnums=argnums(values)), (0, *(None for _ in rest)))(x, *rest))
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


# --- every structure under every transform ----------------------------------------------------------------------------

#: warnings of torch about itself
QUIET = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script:DeprecationWarning", "ignore:.* should not be instantiated:DeprecationWarning"
)


@QUIET
@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
@pytest.mark.parametrize("transform", TOTALS)
def test_totals(name: str, transform: str) -> None:
    values = arguments(name)
    rows = each_row(textbook(name), values)
    expected = [row.sum(0) for row in rows]
    for actual, wanted in zip(TOTALS[transform](ours(name), values), expected, strict=True):
        close(actual, wanted)


@QUIET
@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
@pytest.mark.parametrize("transform", EACH_ROW)
def test_each_row(name: str, transform: str) -> None:
    values = arguments(name)
    rows = each_row(textbook(name), values)
    expected = [torch.stack([rows[0][i, i] for i in range(N)]), *rows[1:]]
    for actual, wanted in zip(EACH_ROW[transform](ours(name), values), expected, strict=True):
        close(actual, wanted)


@QUIET
@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
@pytest.mark.parametrize("transform", ALONG)
def test_directional_derivatives(name: str, transform: str) -> None:
    values = arguments(name)
    v = directions(values)
    expected = sum((g * t).reshape(N, -1).sum(1) for g, t in zip(each_row(textbook(name), values), v, strict=True))
    close(ALONG[transform](ours(name), values, v), expected)


@QUIET
@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
@pytest.mark.parametrize("transform", SECOND)
def test_second_derivatives(name: str, transform: str) -> None:
    check_second(transform, ours(name), textbook(name), arguments(name))


def check_second(transform: str, ours: Callable[..., Tensor], textbook: Callable[..., Tensor], values: Arguments) -> None:
    """Assert that the second derivatives of two densities are equal."""
    with compilers.refused_unless(transform != "compile of hessian" or compilers.hessians_by_several_arguments()):
        actual = SECOND[transform](ours, values)
        for i, (block, wanted) in enumerate(zip(actual, second(textbook, values), strict=True)):
            close(block, wanted, f"block {divmod(i, len(values))}")


@QUIET
@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
def test_gradcheck(name: str) -> None:
    """Forward, reverse, batched and second derivatives against numerical differences; parameters are symmetrised first."""
    leaves = [v.clone().requires_grad_() for v in arguments(name)]

    def density(*values: Tensor) -> Tensor:
        return ours(name)(*free(name, values))

    assert gradcheck(density, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(density, leaves, check_fwd_over_rev=True, check_batched_grad=True)


def test_gradcheck_of_one_variable() -> None:
    """Autograd's batching of cotangents drops a dimension of products with a 1×1 matrix; no such product is computed."""
    leaves = [torch.tensor([[0.3], [-1.0]]).double(), torch.tensor([0.5]).double(), torch.tensor([[1.5]]).double()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert gradgradcheck(ours("Dense"), leaves, check_fwd_over_rev=True, check_batched_grad=True)


def test_third_derivatives() -> None:
    """Three nested transforms with respect to Σ, forward and reverse mode mixed, compared with the textbook density."""
    x, mean, sigma = arguments("Dense")

    def along(f: Callable[..., Tensor], S: Tensor) -> Tensor:
        return f(x, mean, S).sum()

    def reverse(f: Callable[..., Tensor]) -> Tensor:
        return jacrev(jacrev(jacrev(lambda S: along(f, S))))(sigma)

    expected = reverse(textbook("Dense"))
    density = ours("Dense")
    for one, two, three in [(jacfwd, jacfwd, jacfwd), (jacrev, jacfwd, jacrev), (jacfwd, jacfwd, grad), (jacrev, jacrev, grad)]:
        close(one(two(three(lambda S: along(density, S))))(sigma), expected)


@QUIET
@pytest.mark.parametrize("name", mostly_slow(STRUCTURES))
def test_export(name: str) -> None:
    """The exported program returns the value, and is differentiable through its plain operations."""

    class Density(torch.nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            return ours(name)(*values)

    values = arguments(name)
    program = torch.export.export(Density(), values).module()
    close(program(*values), ours(name)(*values))
    for actual, wanted in zip(backward(program, values), backward(ours(name), values), strict=True):
        close(actual, wanted)


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize("name", ["Dense", "Precision"])
def test_compiled_by_the_default_backend(name: str) -> None:
    torch._dynamo.reset()
    values = arguments(name)
    for actual, wanted in zip(
        backward(torch.compile(ours(name), fullgraph=True), values), backward(ours(name), values), strict=True
    ):
        close(actual, wanted)


# --- where PyTorch is wrong: the reason for differentiating the textbook density by reverse mode only -------------------


def test_pytorch_forward_and_reverse_disagree_by_a_symmetric_matrix() -> None:
    """Through cholesky, jacfwd with respect to Σ is not symmetric and jacrev is; with mvnjac both agree."""
    x, mean, sigma = arguments("Dense")

    def density(S: Tensor) -> Tensor:
        return reference.log_density(x, mean, S).sum()

    assert (jacfwd(density)(sigma) - jacrev(density)(sigma)).abs().max() > 1e-3

    def ours_of(S: Tensor) -> Tensor:
        return mvnjac.log_prob(x, mean, S).sum()

    close(jacfwd(ours_of)(sigma), jacrev(ours_of)(sigma))


def test_pytorch_forward_mode_is_wrong_through_cholesky_inverse() -> None:
    """A reason for using only cholesky_ex and solve_triangular in differentiable code. (If this fails, torch was fixed.)"""
    L = torch.linalg.cholesky(arguments("Dense")[2])
    assert (jacfwd(torch.cholesky_inverse)(L) - jacrev(torch.cholesky_inverse)(L)).abs().max() > 1e-6


def test_plain_operations_in_a_jvp_rule_lose_the_outer_tangents() -> None:
    """The reason for `autodiff/higher_order.py`: the second derivative of x² is 0. (If this fails, torch was fixed.)"""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * x

        @staticmethod
        def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ctx.save_for_forward(*inputs)

        @staticmethod
        def jvp(ctx: object, tangent: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * tangent

    x, one = torch.tensor(3.0), torch.tensor(1.0)
    second = jvp(lambda x: jvp(Square.apply, (x,), (one,))[1], (x,), (one,))[1]
    assert float(second) == 0


# --- invalid values ---------------------------------------------------------------------------------------------------

INDEFINITE = torch.tensor([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("transform", [grad, jacrev, jacfwd, hessian])
def test_transforms_raise_errors(transform: Callable) -> None:
    x, mean, _ = arguments("Dense")
    with pytest.raises(mvnjac.errors.NotPositiveDefiniteError, match="pivot 2 of 3"):
        transform(lambda S: mvnjac.log_prob(x, mean, S).sum())(INDEFINITE)
    with pytest.raises(mvnjac.errors.NotFiniteError, match="row 1, column 0"):
        transform(lambda r: mvnjac.log_prob(torch.stack([x[0], r]), mean, torch.eye(D).double()).sum())(x[0] / torch.zeros(D))


def test_errors_of_arguments_that_require_gradients() -> None:
    x, mean, _ = arguments("Dense")
    with pytest.raises(mvnjac.errors.NotPositiveDefiniteError, match="pivot 2 of 3"):
        mvnjac.log_prob(x, mean, INDEFINITE.clone().requires_grad_())


@QUIET
def test_nan_where_values_cannot_be_checked() -> None:
    """Under vmap and compile the value and the gradient with respect to an invalid Σ are NaN, never a plausible number."""
    x, mean, sigma = arguments("Dense")
    stacked = torch.stack([sigma, INDEFINITE])

    def density(S: Tensor) -> Tensor:
        return mvnjac.log_prob(x, mean, S).sum()

    for values, gradients in [
        (vmap(density)(stacked), vmap(grad(density))(stacked)),
        (vmap(lambda r: mvnjac.log_prob(r, mean, INDEFINITE))(x), vmap(lambda r: grad(density)(INDEFINITE + 0 * r[0]))(x)),
    ]:
        assert values[-1].isnan()
        assert gradients[-1].isnan().all()
    assert vmap(density)(stacked)[0].isfinite()
    torch._dynamo.reset()
    compiled_density = torch.compile(density, fullgraph=True, backend="aot_eager")
    leaf = INDEFINITE.clone().requires_grad_()
    value = compiled_density(leaf)
    value.backward()
    assert value.isnan()
    assert leaf.grad.isnan().all()
    assert mvnjac.log_prob(x, mean, INDEFINITE, check=False).isnan().all()


def test_what_is_saved_for_backward() -> None:
    """References to the arguments are saved, and no other tensor of the size of x."""
    x, mean, sigma = arguments("Dense")
    saved: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        saved.append(t)
        return t

    leaf = sigma.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        mvnjac.log_prob(x, mean, leaf)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (x, mean, leaf)}


@pytest.mark.parametrize("weighted", [False, True])
def test_many_rows(weighted: bool) -> None:
    """For many rows the forward pass caches sums: gradients are correct for any weights, and after changes in place."""
    x = Maker(batch=(40,), seed=5).normal(D)
    _, mean, sigma = arguments("Dense")
    w = Maker(batch=(40,), seed=6).normal() if weighted else torch.tensor(0.25, dtype=torch.float64)
    mean, sigma = leaves = mean.clone().requires_grad_(), sigma.clone().requires_grad_()
    gaussian = mvnjac.Gaussian(mean, sigma)
    for _ in range(2):
        actual = torch.autograd.grad((gaussian.log_prob(x) * w).sum(), leaves)
        expected = torch.autograd.grad((reference.log_density(x, mean, sigma) * w).sum(), leaves)
        close(actual[0], expected[0])
        close(actual[1], 0.5 * (expected[1] + expected[1].mT))
        with torch.no_grad():
            mean.add_(1)
            sigma.mul_(2)


_TRIANGLE, _NEGATIVE = torch.eye(3).double().tril(), torch.tensor([1.0, -1.0, 2.0]).double()
#: a structure, a valid parameter, an invalid parameter, and which entries vary
INVALID: dict[str, tuple[Any, Tensor, Tensor, Tensor]] = {
    "Dense": (mvnjac.Dense, torch.eye(3).double(), INDEFINITE, torch.ones(3, 3).bool()),
    "Precision": (mvnjac.Precision, torch.eye(3).double(), INDEFINITE, torch.ones(3, 3).bool()),
    "Cholesky": (mvnjac.Cholesky, _TRIANGLE, torch.diag(_NEGATIVE), torch.ones(3, 3).bool().tril()),
    "InverseCholesky": (mvnjac.InverseCholesky, _TRIANGLE, torch.diag(_NEGATIVE), torch.ones(3, 3).bool().tril()),
    "PrecisionCholesky": (mvnjac.PrecisionCholesky, _TRIANGLE, torch.diag(_NEGATIVE), torch.ones(3, 3).bool().tril()),
    "Diagonal": (mvnjac.Diagonal, torch.ones(3).double(), _NEGATIVE, torch.ones(3).bool()),
    "Isotropic": (mvnjac.Isotropic, torch.ones(()).double(), -torch.ones(()).double(), torch.ones(()).bool()),
}


def _backward(f: Any, invalid: Tensor) -> Tensor:
    leaf = invalid.clone().requires_grad_()
    f(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


#: a function, a valid and an invalid parameter → the gradient with respect to the invalid one, which cannot be checked
UNCHECKED: dict[str, Any] = {
    "jit.trace": lambda f, good, bad: _backward(torch.jit.trace(f, (good.clone().requires_grad_(),), check_trace=False), bad),
    "compile": lambda f, good, bad: _backward(torch.compile(f, fullgraph=True, backend="aot_eager"), bad),
    "compile of grad": lambda f, good, bad: torch.compile(grad(f), fullgraph=True, backend="aot_eager")(bad),
    "make_fx": lambda f, good, bad: make_fx(grad(f))(good)(bad),
    "vmap of grad": lambda f, good, bad: vmap(grad(f))(torch.stack([bad, good]))[0],
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("way", UNCHECKED)
@pytest.mark.parametrize("name", INVALID)
def test_gradients_at_unchecked_invalid_parameters_are_nan(name: str, way: str) -> None:
    """This includes parameters for which the closed form of the gradient is finite."""
    structure, good, bad, varies = INVALID[name]
    x, mean, _ = arguments("Dense")
    torch._dynamo.reset()
    gradient = UNCHECKED[way](lambda value: mvnjac.log_prob(x, mean, structure(value)).sum(), good, bad)
    assert gradient[varies].isnan().all()
