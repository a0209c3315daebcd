"""PyTorch's modes, with and without gradients: each result equals the eager result of the same call.

The eager results are tested elsewhere (tests/autodiff/test_transforms.py, tests/score/test_oracles.py). Where a mode could also
change eager results, the expected values come from a textbook density.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import mvnjac
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from mvnjac.distributions import LowRankMultivariateNormal, MultivariateNormal
from tests.covariance import reference
from tests.support import compilers

N, D = 6, 3
Arguments = tuple[Tensor, Tensor, Tensor]
AnyFunction = Callable[..., object]


def data(seed: int, n: int = N) -> Arguments:
    make = Maker(seed=seed)
    return Maker(batch=(n,), seed=seed + 1).normal(D), make.normal(D), make.definite(D)


def with_missing_entries(x: Tensor) -> Tensor:
    """x with entries above 1 missing, so that the patterns depend on the values."""
    return torch.where(x > 1, torch.nan, x)


def mixture(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    component = MultivariateNormal(torch.stack([mean, mean + 1]), torch.stack([sigma, 2 * sigma]))
    weights = Categorical(logits=mean[:2], validate_args=False)  # some modes do not allow torch's checks of values
    return MixtureSameFamily(weights, component, validate_args=False).log_prob(x)


DENSITIES: dict[str, AnyFunction] = {
    "log_prob": lambda x, mean, sigma: mvnjac.log_prob(x, mean, sigma),
    "log_prob, Cholesky": lambda x, mean, sigma: mvnjac.log_prob(x, mean, mvnjac.Cholesky(torch.linalg.cholesky(sigma))),
    "log_prob, Σ a row": lambda x, mean, sigma: mvnjac.log_prob(
        x, mean.expand(x.shape).contiguous(), sigma.expand(x.shape[0], D, D).contiguous()
    ),
    "log_prob, missing": lambda x, mean, sigma: mvnjac.log_prob(with_missing_entries(x), mean, sigma, missing="marginalise"),
    "Gaussian": lambda x, mean, sigma: mvnjac.Gaussian(mean, sigma).log_prob(x),
    "MultivariateNormal": lambda x, mean, sigma: MultivariateNormal(mean, sigma).log_prob(x),
    "LowRankMultivariateNormal": lambda x, mean, sigma: LowRankMultivariateNormal(
        mean, sigma[:, :1], sigma.diagonal()
    ).log_prob(x),
    "mixture": mixture,
}
DERIVATIVES: dict[str, AnyFunction] = {
    "sum": lambda *values: tuple(mvnjac.jacobian(*values).sum().values()),
    "matrix": lambda *values: mvnjac.jacobian(*values).matrix(),
    "gram": lambda *values: mvnjac.jacobian(*values).gram(),
    "sum, missing": lambda x, *rest: tuple(
        mvnjac.jacobian(with_missing_entries(x), *rest, missing="marginalise").sum().values()
    ),
    "matrix, missing": lambda x, *rest: mvnjac.jacobian(with_missing_entries(x), *rest, missing="marginalise").matrix(),
    "hessian": lambda *values: mvnjac.hessian(*values).matrix(),
    "fisher_information": lambda x, *rest: mvnjac.fisher_information(*rest).matrix(),
    "natural_gradient": lambda *values: tuple(mvnjac.natural_gradient(*values).values()),
}
ALL = DENSITIES | DERIVATIVES


def tensors(result: object) -> list[Tensor]:
    return [t for t in tree_leaves(result) if isinstance(t, Tensor)]


def close(actual: object, expected: object) -> None:
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def with_gradients(f: AnyFunction, values: Arguments) -> tuple[list[Tensor], list[Tensor]]:
    """The results, and the gradients of their weighted sum, in which all entries have different weights."""
    leaves = [v.detach().clone().requires_grad_() for v in values]
    return gradients_of(f(*leaves), leaves)


def gradients_of(result: object, leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    results = tensors(result)
    total = torch.stack([(t * torch.linspace(1, 2, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in results]).sum()
    return results, list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))


# --- torch.jit.trace --------------------------------------------------------------------------------------------------


def traced(f: AnyFunction, values: Arguments) -> torch.jit.ScriptFunction:
    with warnings.catch_warnings():  # about comparisons of sizes and deprecation
        warnings.simplefilter("ignore")
        return torch.jit.trace(f, values, check_trace=False)


@pytest.mark.parametrize("name", ALL)
def test_jit_trace(name: str) -> None:
    """A traced function gives correct values and gradients for other data and other numbers of rows."""
    trace = traced(ALL[name], data(1))
    for values in (data(2), data(3, N + 5)):
        close(trace(*values), ALL[name](*values))
        close(with_gradients(trace, values), with_gradients(ALL[name], values))


@pytest.mark.parametrize("name", ["log_prob", "log_prob, Σ a row", "mixture", "matrix, missing"])
def test_jit_traces_are_equal(name: str) -> None:
    graphs = {str(traced(ALL[name], data(1)).graph) for _ in range(3)}
    assert len(graphs) == 1


@pytest.mark.parametrize("name", sorted(structures()))
def test_jit_trace_of_every_structure(name: str) -> None:
    structure = next(iter(structures()[name].samples(D, Maker(seed=1))))

    def density(x: Tensor, mean: Tensor, *parameters: Tensor) -> Tensor:
        return mvnjac.log_prob(x, mean, structure.at(parameters))

    first, second = data(1), data(2)
    parameters = tuple(structure.parameters.values())
    trace = traced(density, (*first[:2], *parameters))
    values = (*second[:2], *parameters)
    close(with_gradients(trace, values), with_gradients(density, values))


def test_a_jacobian_constructed_outside_of_the_trace() -> None:
    """No kernel bypasses the tracer: traced products are correct for other weights."""
    J = mvnjac.jacobian(*data(1))
    trace = traced(
        lambda w: (J.rmatvec(w), J.log_prob * w, J.matrix() * w[:, None], J.gram() * w[0]), (torch.ones(N).double(),)
    )
    w = torch.linspace(-1, 2, N, dtype=torch.float64)
    close(trace(w), (J.rmatvec(w), J.log_prob * w, J.matrix() * w[:, None], J.gram() * w[0]))


def test_functions_that_jit_trace_cannot_record_raise() -> None:
    with pytest.raises(mvnjac.errors.ArgumentError, match="cannot record"):
        traced(lambda x, mean, sigma: mvnjac.hessian(x, mean, mvnjac.Diagonal(sigma.diagonal())).matrix(), data(1))


def test_a_traced_training_loop() -> None:
    """The loss is traced with its parameters as inputs and differentiated outside, as in Pyro's JitTrace_ELBO."""
    x, mean, sigma = data(1)
    L = torch.linalg.cholesky(sigma)

    def elbo(library: object, x: Tensor, mean: Tensor, L: Tensor) -> Tensor:
        guide = library.MultivariateNormal(mean, scale_tril=L)
        z = mean + L @ torch.ones(D).double()
        prior = library.MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
        return (library.MultivariateNormal(z, sigma).log_prob(x).sum() + prior.log_prob(z) - guide.log_prob(z)).sum()

    trace = traced(lambda *values: elbo(mvnjac.distributions, *values), (x, mean.requires_grad_(), L.requires_grad_()))
    expected = [v.detach().clone().requires_grad_() for v in (mean, L)]
    actual = [v.detach().clone().requires_grad_() for v in (mean, L)]
    for _ in range(3):
        for f, leaves in ((trace, actual), (lambda *values: elbo(torch.distributions, *values), expected)):
            steps = torch.autograd.grad(f(x, *leaves), leaves)
            with torch.no_grad():
                for leaf, step in zip(leaves, steps, strict=True):
                    leaf.add_(step.tril() if step.ndim > 1 else step, alpha=0.01)
        close(actual, expected)


# --- torch.compile without gradients, and torch.export for any number of rows -------------------------------------------

#: warnings of torch about itself
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@contextlib.contextmanager
def grad_mode(name: str) -> Iterator[None]:
    with {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "evaluation": contextlib.nullcontext}[name]():
        yield


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize("mode", ["evaluation", "no_grad", "inference_mode"])
@pytest.mark.parametrize("name", ["log_prob", "MultivariateNormal", "mixture"])
def test_compile_without_gradients(name: str, mode: str) -> None:
    torch._dynamo.reset()
    density = torch.compile(DENSITIES[name], fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (N, N + 5):
        values = data(1, n)
        leaves = values if mode != "no_grad" else [v.clone().requires_grad_() for v in values]
        with grad_mode(mode), compilers.refused_unless(name == "log_prob" or compilers.copies_of_objects()):
            close(density(*leaves), DENSITIES[name](*values))


@QUIET
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["log_prob", "MultivariateNormal"])
def test_export_for_any_number_of_rows(name: str, strict: bool) -> None:
    class Density(torch.nn.Module):
        def forward(self, x: Tensor, mean: Tensor, sigma: Tensor) -> object:
            return DENSITIES[name](x, mean, sigma)

    shapes = {"x": {0: torch.export.Dim("n")}, "mean": None, "sigma": None}
    possible = name == "log_prob" or not strict or compilers.copies_of_objects()
    torch._dynamo.reset()
    with compilers.refused_unless(possible):
        program = torch.export.export(Density(), data(1), dynamic_shapes=shapes, strict=strict).module()
        for values in (data(2), data(3, 4 * N)):
            close(program(*values), DENSITIES[name](*values))
            close(with_gradients(program, values), with_gradients(DENSITIES[name], values))


# --- make_fx, and tensors without values ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_make_fx(name: str) -> None:
    """Values, recorded with real tensors; and gradients computed inside, recorded with fake tensors."""
    close(make_fx(ALL[name])(*data(1))(*data(2)), ALL[name](*data(2)))

    def inside(*values: Tensor) -> list[Tensor]:
        return with_gradients(ALL[name], values)[1]

    close(make_fx(inside, tracing_mode="fake")(*data(1))(*data(2)), inside(*data(2)))


@pytest.mark.parametrize("name", ["log_prob", "MultivariateNormal", "mixture", "sum", "matrix"])
def test_make_fx_for_any_number_of_rows(name: str) -> None:
    close(make_fx(ALL[name], tracing_mode="symbolic")(*data(1))(*data(3, 4 * N)), ALL[name](*data(3, 4 * N)))


def same_shapes(actual: object, expected: object) -> None:
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype


@pytest.mark.parametrize("name", ALL)
def test_meta_tensors(name: str) -> None:
    """Shapes and dtypes are correct, with and without gradients; no value is read."""
    values = [v.to("meta") for v in data(1)]
    with torch.device("meta"):  # for constants that the cases create
        same_shapes(ALL[name](*values), ALL[name](*data(1)))
        actual = with_gradients(ALL[name], values)
    same_shapes(actual, with_gradients(ALL[name], data(1)))
    assert all(t.is_meta for t in tensors(actual))


@pytest.mark.parametrize("name", ALL)
def test_fake_tensors(name: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    mode = FakeTensorMode()
    values = [mode.from_tensor(v) for v in data(1)]
    with mode:
        actual = with_gradients(ALL[name], values)
    same_shapes(actual, with_gradients(ALL[name], data(1)))
    assert all(isinstance(t, FakeTensor) for t in tensors(actual))


def test_fake_tensors_outside_of_their_mode() -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    mode = FakeTensorMode()
    values = [mode.from_tensor(v) for v in data(1)]
    assert isinstance(mvnjac.log_prob(*values), FakeTensor)


# --- inference mode ---------------------------------------------------------------------------------------------------


def inference(*values: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [v.clone() for v in values]


@pytest.mark.parametrize("name", ALL)
def test_inference_tensors(name: str) -> None:
    """Inference tensors as data with trained parameters, as parameters with differentiated x, and as all arguments."""
    values = data(1)
    f, (x, mean, sigma) = ALL[name], values
    results, gradients = with_gradients(f, values)
    close(f(*inference(*values)), f(*values))
    leaves = [v.clone().requires_grad_() for v in (mean, sigma)]
    close(gradients_of(f(*inference(x), *leaves), leaves), (results, gradients[1:]))
    (leaf,) = leaves = [x.clone().requires_grad_()]
    if any(t.requires_grad for t in tensors(f(leaf, mean, sigma))):
        close(gradients_of(f(leaf, *inference(mean, sigma)), leaves), (results, gradients[:1]))
    (leaf,) = leaves = [mean.clone().requires_grad_()]
    result = f(*inference(x), leaf, *inference(sigma))
    if any(t.requires_grad for t in tensors(result)):
        close(gradients_of(result, leaves), (results, gradients[1:2]))


def test_inference_tensors_changed_in_place() -> None:
    """Inference tensors have no version counter: a Gaussian compares their values."""
    x, mean, sigma = inference(*data(1))
    gaussian, density = mvnjac.Gaussian(mean, sigma), MultivariateNormal(mean, sigma)
    with torch.inference_mode():
        gaussian.log_prob(x), density.log_prob(x)
        sigma.mul_(2)
        close([gaussian.log_prob(x), density.log_prob(x)], [reference.log_density(x, mean, sigma)] * 2)


# --- modes that intercept operations or change how gradients are computed ------------------------------------------------


class EveryOperation(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None) -> object:  # type: ignore[no-untyped-def]
        self.count += 1
        return function(*arguments, **(keywords or {}))


class EveryFunction(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), keywords=None) -> object:  # type: ignore[no-untyped-def]
        return function(*arguments, **(keywords or {}))


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic algorithms, with uninitialised memory filled with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def saved_as_arrays() -> contextlib.AbstractContextManager[None]:
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy)


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "a dispatch mode": EveryOperation,
    "a function mode": EveryFunction,
    "deterministic": deterministic,
    "detect_anomaly": torch.autograd.detect_anomaly,
    "saved_tensors_hooks": saved_as_arrays,
    "save_on_cpu": torch.autograd.graph.save_on_cpu,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@QUIET
@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str) -> None:
    for f in ALL.values():
        values, gradients = f(*data(1)), with_gradients(f, data(1))
        with MODES[mode]():
            close(f(*data(1)), values)
            close(with_gradients(f, data(1)), gradients)


def test_a_dispatch_mode_intercepts_the_operations() -> None:
    for f in ALL.values():
        with EveryOperation() as mode:
            f(*data(1))
        assert mode.count > 5


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool) -> None:
    for f in DENSITIES.values():
        leaves = [v.clone().requires_grad_() for v in data(1)]
        result = checkpoint(f, *leaves, use_reentrant=reentrant)
        (result * torch.linspace(1, 2, N, dtype=torch.float64)).sum().backward()
        close((result, [leaf.grad for leaf in leaves]), with_gradients(f, data(1)))


def test_transforms_under_a_mode() -> None:
    for f in DENSITIES.values():
        expected = with_gradients(f, data(1))[1]

        def total(*values: Tensor, f: AnyFunction = f) -> Tensor:
            (result,) = tensors(f(*values))
            return (result * torch.linspace(1, 2, N, dtype=torch.float64)).sum()

        for mode in (EveryOperation(), EveryFunction()):
            with mode:
                close(torch.func.grad(total, (0, 1, 2))(*data(1)), expected)


# --- kinds of tensors -------------------------------------------------------------------------------------------------


class Labelled(Tensor):
    pass


def negated_view(t: Tensor) -> Tensor:
    view = torch.complex(torch.zeros_like(t), -t).conj().imag
    assert view.is_neg()
    return view


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "Parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "subclass": lambda t: t.clone().as_subclass(Labelled),
    "negated view": negated_view,
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "transposed": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tensors(kind: str) -> None:
    for f in ALL.values():
        values = data(1)
        actual = f(*(KINDS[kind](v) for v in values))
        close([t.as_subclass(Tensor) for t in tensors(actual)], f(*values))
        results, gradients = with_gradients(lambda *v, f=f: f(*(KINDS["strided"](t) for t in v)), values)
        close((results, gradients), with_gradients(f, values))


def test_expanded_rows() -> None:
    x, mean, sigma = data(1)
    for f in ALL.values():
        close(f(x[:1].expand(N, D), mean[:1].expand(D), sigma), f(x[:1].repeat(N, 1), mean[:1].repeat(D), sigma))


def test_gradients_by_x_alone() -> None:
    x, mean, sigma = data(1)
    for f in DENSITIES.values():
        leaf = x.clone().requires_grad_()
        close(gradients_of(f(leaf, mean, sigma), [leaf])[1], with_gradients(f, data(1))[1][:1])


def test_second_order_matrices_keep_their_graph() -> None:
    """The gradient of an information matrix with respect to Σ, which a kernel would cut, compared with torch."""
    _, mean, sigma = data(1)
    pairs = [(i, j) for j in range(D) for i in range(j, D)]
    duplication = torch.zeros(D * D, len(pairs)).double()
    for k, (i, j) in enumerate(pairs):
        duplication[[i * D + j, j * D + i], k] = 1

    def textbook(sigma: Tensor) -> Tensor:
        P = torch.linalg.inv(0.5 * (sigma + sigma.mT))
        return torch.block_diag(P, 0.5 * duplication.T @ torch.kron(P, P) @ duplication)

    for f in (textbook, lambda sigma: mvnjac.fisher_information(mean, sigma).matrix()):
        leaf = sigma.clone().requires_grad_()
        close(gradients_of(f(leaf), [leaf]), gradients_of(textbook(leaf), [leaf]))
