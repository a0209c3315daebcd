"""The two distribution classes behave like the classes of torch.distributions with the same names, which are the reference.

All tests use the classes in `IMPLEMENTATION`. The classes of torch pass all tests except those marked `ours_alone`, most of them in
the last section, which test properties that only mvnjac has.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import (
    Categorical,
    Distribution,
    ExpTransform,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    constraints,
    kl_divergence,
    transform_to,
)
from torch.func import grad, hessian, jvp, vmap

from mvnjac.covariance.samples import Maker
from mvnjac.errors import DtypeError, MvnjacError
from tests.covariance.reference import log_density
from tests.support.tolerance import assert_close, condition

#: the tested module; with "torch.distributions", all tests except those of mvnjac alone pass
IMPLEMENTATION = "mvnjac.distributions"

OURS, TORCH = importlib.import_module(IMPLEMENTATION), torch.distributions

#: the arguments besides loc, and the class
FORMS = {
    "covariance_matrix": "MultivariateNormal",
    "precision_matrix": "MultivariateNormal",
    "scale_tril": "MultivariateNormal",
    "cov_factor": "LowRankMultivariateNormal",
}

#: leading dimensions of loc, of the matrix (or the factor) and of the factor's diagonal
BATCHES = {
    "none": ((), (), ()),
    "loc": ((5,), (), ()),
    "matrix": ((), (5,), (5,)),
    "both": ((5,), (5,), (5,)),
    "grid": ((4, 1), (3,), (1,)),
    "deep matrix": ((5,), (2, 5), (1, 5)),
    "deep loc": ((2, 5), (5,), ()),
    "size one": ((2, 3), (1,), (1,)),
    "empty": ((0,), (), ()),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
SAMPLE_SHAPES = ((), (2,), (2, 7), (0,), (1,))

ARGUMENTS = "loc|covariance_matrix|precision_matrix|scale_tril|cov_factor|cov_diag"

#: statistical tests: the number of draws, and the tolerance in standard errors
DRAWS, DEVIATIONS = 20_000, 5.0
#: the 99.9 % quantile of the Kolmogorov-Smirnov statistic times √n
KOLMOGOROV = 1.95

ours_alone = pytest.mark.skipif(IMPLEMENTATION.startswith("torch"), reason="torch does not promise this")
by_form = pytest.mark.parametrize("form", FORMS)
by_batches = pytest.mark.parametrize("batches", BATCHES)
by_full_batches = pytest.mark.parametrize("batches", [name for name in BATCHES if name != "empty"])
by_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())


@pytest.fixture(autouse=True)
def _validation_by_default() -> Iterator[None]:
    """Restores the default validation, which torch.compile switches off for the whole process."""
    kept = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    yield
    Distribution.set_default_validate_args(kept)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Fixes the seed during a test, and restores the state of the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def arguments(
    form: str, batches: str = "none", dtype: torch.dtype = torch.float64, d: int = 3, seed: int = 0
) -> dict[str, Tensor]:
    """Well-conditioned parameters, by the names of the constructor's arguments."""
    loc_batch, batch, diagonal_batch = BATCHES[batches]
    loc, make = Maker(dtype, loc_batch, seed).normal(d), Maker(dtype, batch, seed + 1)
    if form == "cov_factor":
        return {"loc": loc, "cov_factor": make.normal(d, 2), "cov_diag": Maker(dtype, diagonal_batch, seed + 2).positive(d)}
    return {"loc": loc, form: make.lower(d) if form == "scale_tril" else make.definite(d)}


def class_of(given: dict[str, Any], module: Any = OURS) -> type[Distribution]:
    return getattr(module, "LowRankMultivariateNormal" if "cov_factor" in given else "MultivariateNormal")


def build(given: dict[str, Any], module: Any = OURS, **options: Any) -> Distribution:
    """The distribution; without validation for an empty batch, for which torch's constraints fail."""
    if not given["loc"].numel():
        options.setdefault("validate_args", False)
    return class_of(given, module)(**given, **options)


def double(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().double() for name, value in given.items()}


def covariance(given: dict[str, Tensor]) -> Tensor:
    """Σ in float64, from its definition."""
    g = double(given)
    if "cov_factor" in g:
        return g["cov_factor"] @ g["cov_factor"].mT + torch.diag_embed(g["cov_diag"])
    if "scale_tril" in g:
        return g["scale_tril"] @ g["scale_tril"].mT
    return g["covariance_matrix"] if "covariance_matrix" in g else torch.linalg.inv(g["precision_matrix"])


def values(p: Distribution, *sample_shape: int, seed: int = 8) -> Tensor:
    """(*sample_shape, *batch, d) values."""
    return Maker(p.mean.dtype, (*sample_shape, *p.batch_shape), seed).normal(*p.event_shape)


def batch_of(batches: str) -> torch.Size:
    return torch.broadcast_shapes(*BATCHES[batches])


def seeded_rsample(p: Distribution) -> Tensor:
    torch.manual_seed(4)
    return p.rsample((2,))


PROPERTIES = ("loc", "mean", "mode", "variance", "stddev", "covariance_matrix", "precision_matrix", "scale_tril")
Quantity = Callable[[Distribution, Distribution, Tensor], Tensor]


def attribute(name: str) -> Quantity:
    return lambda p, q, x: getattr(p, name)


#: all results of a distribution p, given another distribution q and values x
QUANTITIES: dict[str, Quantity] = {
    **{name: attribute(name) for name in PROPERTIES},
    "log_prob": lambda p, q, x: p.log_prob(x),
    "entropy": lambda p, q, x: p.entropy(),
    "perplexity": lambda p, q, x: p.perplexity(),
    "kl from p": lambda p, q, x: kl_divergence(p, q),
    "kl to p": lambda p, q, x: kl_divergence(q, p),
    "rsample": lambda p, q, x: seeded_rsample(p),
}


def reference_dtype(quantity: str, dtype: torch.dtype) -> torch.dtype:
    """The reference is float64, except for draws: the same seed gives other numbers in another dtype."""
    return dtype if quantity == "rsample" else torch.float64


def evaluate(quantity: str, given: dict[str, Tensor], other: dict[str, Tensor], x: Tensor, module: Any) -> Tensor:
    return QUANTITIES[quantity](build(given, module), build(other, module), x)


def converted(dtype: torch.dtype, *given: Any) -> list[Any]:
    return [{k: v.to(dtype) for k, v in g.items()} if isinstance(g, dict) else g.to(dtype) for g in given]


def kappa_of(*given: dict[str, Tensor]) -> float:
    return max(condition(covariance(g)) for g in given)


# Shapes and values ------------------------------------------------------------------------------------------------------------


@by_form
@by_batches
@by_dtype
def test_shapes(form: str, batches: str, dtype: torch.dtype) -> None:
    """All attributes have the full batch shape; all results have the same shape and dtype as in torch."""
    p, batch, d = build(arguments(form, batches, dtype), validate_args=False), batch_of(batches), 3
    assert isinstance(p, Distribution)
    assert (p.batch_shape, p.event_shape) == (batch, (d,))
    assert type(p.batch_shape) is type(p.event_shape) is torch.Size
    for name in PROPERTIES:
        value = getattr(p, name)
        assert value.shape == batch + ((d, d) if name in ("covariance_matrix", "precision_matrix", "scale_tril") else (d,)), (
            name
        )
        assert value.dtype == dtype, name
    assert (p.entropy().shape, p.entropy().dtype) == (batch, dtype)
    for shape in SAMPLE_SHAPES:
        for draw in (p.sample(shape), p.rsample(shape), p.sample(torch.Size(shape)), p.sample(list(shape))):
            assert (draw.shape, draw.dtype) == ((*shape, *batch, d), dtype)
        assert (p.log_prob(draw).shape, p.log_prob(draw).dtype) == ((*shape, *batch), dtype)


@by_batches
def test_low_rank_shapes(batches: str) -> None:
    """cov_factor and cov_diag are shown with the full batch, for any rank: one, and more than there are variables."""
    for rank in (1, 2, 4):
        given = arguments("cov_factor", batches)
        given["cov_factor"] = Maker(batch=BATCHES[batches][1]).normal(3, rank)
        p, batch = build(given), batch_of(batches)
        assert (p.cov_factor.shape, p.cov_diag.shape) == ((*batch, 3, rank), (*batch, 3))
        assert torch.equal(p.cov_factor, given["cov_factor"].expand(*batch, 3, rank))
        assert torch.equal(p.cov_diag, given["cov_diag"].expand(*batch, 3))
        assert_close(p.covariance_matrix, covariance(given).expand(*batch, 3, 3), 1.0)
        assert_close(p.log_prob(values(p)), log_density(values(p), given["loc"], covariance(given)), kappa_of(given))


@by_form
@by_dtype
@pytest.mark.parametrize(("batches", "d"), [*((name, 3) for name in BATCHES), ("none", 1), ("grid", 1)])
def test_values(form: str, batches: str, dtype: torch.dtype, d: int) -> None:
    """All properties, densities, entropies, divergences and, with the same seed, draws are the same as in torch."""
    given, other = arguments(form, batches, dtype, d), arguments(form, batches, dtype, d, seed=10)
    x, kappa = values(build(given), 2), kappa_of(given, other)
    for quantity in QUANTITIES:
        actual = evaluate(quantity, given, other, x, OURS)
        expected = evaluate(quantity, *converted(reference_dtype(quantity, dtype), given, other, x), TORCH)
        assert_close(actual, expected, kappa, what=quantity)


@by_form
@by_batches
@by_dtype
def test_log_prob(form: str, batches: str, dtype: torch.dtype) -> None:
    """The density is the textbook's, for values of the full batch, of several rows, of one row and of no row."""
    given = arguments(form, batches, dtype)
    p, sigma = build(given, validate_args=False), covariance(given)
    single = Maker(dtype, seed=7).normal(3)
    for x in (
        values(p),
        values(p, 4),
        values(p, 2, 4),
        values(p, 0),
        single,
        single.expand(1, 3),
        single.expand(*p.batch_shape, 3),
    ):
        shape = torch.broadcast_shapes(x.shape[:-1], p.batch_shape)
        expected = log_density(x.double(), given["loc"].double(), sigma).expand(shape)
        assert_close(p.log_prob(x), expected, condition(sigma), what=f"values of shape {tuple(x.shape)}")


@by_form
def test_batches_are_their_members(form: str) -> None:
    """The results of a batch are those of its members."""
    given = arguments(form, "both")
    p, members = build(given), [build({k: v[i] for k, v in given.items()}) for i in range(5)]
    x = values(p, 4)
    assert_close(p.log_prob(x), torch.stack([m.log_prob(x[:, i]) for i, m in enumerate(members)], -1), kappa_of(given))
    for name in PROPERTIES:
        assert_close(getattr(p, name), torch.stack([getattr(m, name) for m in members]), kappa_of(given), what=name)


@by_form
@by_batches
def test_properties_agree(form: str, batches: str) -> None:
    """scale_tril is the Cholesky factor of the covariance, precision its inverse, variance its diagonal."""
    given = arguments(form, batches)
    p, kappa = build(given), kappa_of(given)
    identity = torch.eye(3).double().expand_as(p.covariance_matrix)
    assert_close(p.scale_tril @ p.scale_tril.mT, p.covariance_matrix, kappa)
    assert_close(p.covariance_matrix @ p.precision_matrix, identity, kappa**2)
    assert torch.equal(p.scale_tril, p.scale_tril.tril())
    assert (p.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert_close(p.variance, p.covariance_matrix.diagonal(dim1=-2, dim2=-1), kappa)
    assert_close(p.stddev**2, p.variance, 1.0)


@by_form
def test_properties_in_any_order(form: str) -> None:
    """Derived parameters do not depend on the order of access."""
    given, names = arguments(form, "grid"), ("precision_matrix", "scale_tril", "covariance_matrix", "variance")
    p, q = build(given), build(given)
    q.log_prob(values(q)), q.entropy(), q.rsample()
    for forward, backward in zip(
        [(n, getattr(p, n)) for n in names], [(n, getattr(q, n)) for n in names[::-1]][::-1], strict=True
    ):
        assert_close(forward[1], backward[1], kappa_of(given), what=forward[0])


@by_form
def test_what_was_given_is_shown(form: str) -> None:
    """The parameters are views of the given tensors, which are never copied, rounded or changed."""
    given = arguments(form, "loc")
    kept = {name: (value.clone(), value._version) for name, value in given.items()}
    p = build(given)
    for quantity in QUANTITIES:
        QUANTITIES[quantity](p, build(given), values(p, 2))
    for name, value in given.items():
        assert getattr(p, name).data_ptr() == value.data_ptr(), name
        assert torch.equal(value, kept[name][0]), name
        assert value._version == kept[name][1], name


@by_form
@by_dtype
def test_layout(form: str, dtype: torch.dtype) -> None:
    """Parameters and values need not be contiguous in memory."""
    given = arguments(form, "both", dtype)
    strided = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in given.items()}
    x = values(build(given), 4)
    assert not any(value.is_contiguous() for value in strided.values())
    actual = build(strided).log_prob(x.transpose(0, 1).contiguous().transpose(0, 1))
    assert_close(actual, build(given).log_prob(x), kappa_of(given))


@by_form
def test_signature(form: str) -> None:
    """Same arguments in the same order with the same defaults, by position too; every public name is there."""
    given = arguments(form)
    ours, theirs = class_of(given), class_of(given, TORCH)
    shown = [[(p.name, p.default) for p in inspect.signature(cls).parameters.values()] for cls in (ours, theirs)]
    assert shown[0][: len(shown[1])] == shown[1]
    assert {name for name in dir(theirs) if not name.startswith("_")} <= set(dir(ours))
    if form in ("covariance_matrix", "cov_factor"):
        assert torch.equal(ours(*given.values()).loc, given["loc"])


@by_form
def test_repr(form: str) -> None:
    """The name of the class, and the parameters that were given with their shapes."""
    given = arguments(form, "loc")
    shown = repr(build(given))
    assert shown.startswith(f"{FORMS[form]}(")
    for name in given:
        assert f"{name}: {getattr(build(given), name).shape}" in shown


@by_form
def test_what_a_density_has_not(form: str) -> None:
    """A multivariate normal has no cdf here and no enumerable support; generic code relies on this error."""
    p = build(arguments(form))
    assert p.has_rsample
    assert not p.has_enumerate_support
    for call in (lambda: p.cdf(p.loc), lambda: p.icdf(p.loc), p.enumerate_support):
        with pytest.raises(NotImplementedError):
            call()


@by_form
@by_full_batches
def test_mode(form: str, batches: str) -> None:
    """No value is more likely than the mode."""
    p = build(arguments(form, batches))
    assert (p.log_prob(p.mode) > p.log_prob(p.mode + 0.01 * values(p, 20))).all()


# Numerical stability ----------------------------------------------------------------------------------------------------------


@by_form
@by_dtype
@pytest.mark.parametrize("exponent", [-40, 40])
def test_units(form: str, dtype: torch.dtype, exponent: int) -> None:
    """Tiny and huge units change the density by their Jacobian only; powers of two make that exact."""
    given, scale = arguments(form, "loc", dtype), 2.0**exponent
    power = {"covariance_matrix": 2, "precision_matrix": -2, "cov_diag": 2}
    scaled = build({name: value * scale ** power.get(name, 1) for name, value in given.items()})
    x, shift = values(build(given), 3), 3 * math.log(scale)
    expected = build(given).log_prob(x).double()
    assert_close(scaled.log_prob(x * scale), expected - shift, kappa_of(given), scale=abs(shift))
    assert_close(scaled.entropy(), build(given).entropy().double() + shift, kappa_of(given), scale=abs(shift))


def test_nearly_singular_precision() -> None:
    """A precision matrix from a kernel function is inverted without forming an indefinite covariance."""
    x = Maker(seed=3).normal(10)
    p = build({"loc": torch.zeros(10).double(), "precision_matrix": torch.exp(-((x - x.unsqueeze(-1)) ** 2))})
    assert torch.isfinite(p.log_prob(p.sample((5,)))).all()


@pytest.mark.parametrize("form", ["covariance_matrix", "precision_matrix"])
def test_ill_conditioned(form: str) -> None:
    """Six orders of magnitude between the eigenvalues, turned: the error is no larger than the condition explains."""
    turn = torch.linalg.qr(Maker(seed=2).normal(4, 4)).Q
    matrix = turn * torch.logspace(-3, 3, 4).double() @ turn.mT
    given = {"loc": Maker(seed=1).normal(4), form: 0.5 * (matrix + matrix.mT)}
    x = values(build(given), 6)
    assert_close(build(given).log_prob(x), log_density(x, given["loc"], covariance(given)), kappa_of(given))


@by_form
def test_far_tail(form: str) -> None:
    """A million standard deviations away there is still a finite density, and the right one."""
    given = arguments(form)
    x = 1e6 * values(build(given), 4)
    assert_close(build(given).log_prob(x), log_density(x, given["loc"], covariance(given)), kappa_of(given))


# Draws ------------------------------------------------------------------------------------------------------------------------


@by_form
@pytest.mark.parametrize("batches", ["none", "loc", "grid"])
@by_dtype
def test_draws_are_normal(form: str, batches: str, dtype: torch.dtype) -> None:
    """Whitened by the textbook, draws are independent standard normals: within a draw, across the batch, among draws."""
    given = arguments(form, batches, dtype)
    draws = build(given).sample((DRAWS,)).double()
    lower = torch.linalg.cholesky(covariance(given))
    z = torch.linalg.solve_triangular(lower, (draws - given["loc"].double()).unsqueeze(-1), upper=False).reshape(DRAWS, -1)
    error = DEVIATIONS / math.sqrt(DRAWS)
    assert z.mean(0).abs().max() < error
    assert (z.mT @ z / DRAWS - torch.eye(z.shape[1])).abs().max() < math.sqrt(2) * error
    assert (z[1:] * z[:-1]).mean(0).abs().max() < error
    direction = torch.nn.functional.normalize(Maker(seed=9).normal(z.shape[1]), dim=0)
    uniform = torch.special.ndtr(z @ direction).sort().values
    assert (uniform - torch.arange(DRAWS) / DRAWS).abs().max() * math.sqrt(DRAWS) < KOLMOGOROV


@by_form
@by_batches
def test_sample_is_rsample_without_a_graph(form: str, batches: str) -> None:
    """Only rsample of parameters that require a gradient carries one; the numbers are the same, and a seed fixes them."""
    given = arguments(form, batches)
    assert not build(given).rsample().requires_grad
    for name in given:
        p = build({**given, name: given[name].clone().requires_grad_()})
        drawn = seeded_rsample(p)
        assert drawn.requires_grad, name
        torch.manual_seed(4)
        sampled = p.sample((2,))
        assert not sampled.requires_grad
        assert torch.equal(sampled, drawn)


def within_error(actual: Tensor, expected: Tensor) -> None:
    """The mean over the first dimension agrees with its expectation, within the statistical error."""
    error = actual.std(0) / math.sqrt(len(actual))
    assert ((actual.mean(0) - expected).abs() <= DEVIATIONS * error + 1e-12).all()


@by_form
@by_full_batches
def test_entropy_is_a_mean(form: str, batches: str) -> None:
    p = build(arguments(form, batches))
    within_error(-p.log_prob(p.sample((2000,))), p.entropy())


# Divergences ------------------------------------------------------------------------------------------------------------------

by_pair = pytest.mark.parametrize(("form", "other"), [(a, b) for a in FORMS for b in FORMS])


def divergence(p: dict[str, Tensor], q: dict[str, Tensor]) -> Tensor:
    """½ (tr Λq Σp + (μq − μp)ᵀ Λq (μq − μp) − d + log det Σq − log det Σp), in float64."""
    a, b = covariance(p), covariance(q)
    precision, step = torch.linalg.inv(b), (q["loc"].double() - p["loc"].double())
    trace = (precision * a).sum((-2, -1))
    square = (step.unsqueeze(-2) @ precision @ step.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return 0.5 * (trace + square - a.shape[-1] + torch.logdet(b) - torch.logdet(a))


@pytest.mark.filterwarnings("error")  # an ambiguous registration only warns
@by_pair
@pytest.mark.parametrize(("batches", "others"), [("none", "none"), ("loc", "none"), ("matrix", "both"), ("none", "grid")])
@by_dtype
def test_divergence(form: str, other: str, batches: str, others: str, dtype: torch.dtype) -> None:
    """The divergence between any two parametrisations, of mvnjac or torch, with broadcasting, is that of the textbook."""
    given, against = arguments(form, batches, dtype), arguments(other, others, dtype, seed=10)
    expected = divergence(given, against)
    for here, there in ((OURS, OURS), (OURS, TORCH), (TORCH, OURS)):
        actual = kl_divergence(build(given, here), build(against, there))
        assert_close(actual, expected, kappa_of(given, against), what=f"{here.__name__} to {there.__name__}")


@by_pair
def test_divergence_broadcasts(form: str, other: str) -> None:
    """A column of distributions against a row of them is a table of divergences."""
    column, row = arguments(form, "both"), arguments(other, "both", seed=10)
    column = {name: value.unsqueeze(1) for name, value in column.items()}
    assert_close(kl_divergence(build(column), build(row)), divergence(column, row), kappa_of(column, row))


@by_pair
def test_divergence_is_a_mean(form: str, other: str) -> None:
    p, q = build(arguments(form, "both")), build(arguments(other, "both", seed=10))
    x = p.sample((2000,))
    within_error(p.log_prob(x) - q.log_prob(x), kl_divergence(p, q))


@by_form
@by_batches
def test_divergence_from_itself(form: str, batches: str) -> None:
    p = build(arguments(form, batches))
    actual = kl_divergence(p, p)
    assert_close(actual, torch.zeros(p.batch_shape).double(), kappa_of(arguments(form, batches)), scale=3.0)


@by_pair
def test_divergence_of_different_sizes(form: str, other: str) -> None:
    for here, there in ((OURS, OURS), (OURS, TORCH), (TORCH, OURS)):
        with pytest.raises(ValueError, match="event shape"):
            kl_divergence(build(arguments(form, d=3), here), build(arguments(other, d=4), there))


# Expansion, subclasses, copies ------------------------------------------------------------------------------------------------


def same(p: Distribution, q: Distribution, kappa: float) -> None:
    """Require that two distributions have the same properties and results."""
    assert (type(p), p.batch_shape, p.event_shape) == (type(q), q.batch_shape, q.event_shape)
    other = build(arguments("scale_tril", seed=10))
    for quantity, of in QUANTITIES.items():
        assert_close(of(p, other, values(p, 2)), of(q, other, values(p, 2)), kappa, what=quantity)


@by_form
@by_full_batches
@pytest.mark.parametrize("shape", [(), (7, 1)], ids=str)
@pytest.mark.parametrize("asked", [False, True], ids=["fresh", "asked before"])
def test_expand(form: str, batches: str, shape: tuple[int, ...], asked: bool) -> None:
    """An expanded distribution is the one of expanded parameters; nothing is copied or validated again."""
    given = arguments(form, batches)
    p, full = build(given), (*shape, *batch_of(batches))
    if asked:
        assert all(getattr(p, name) is not None for name in PROPERTIES)
    whole = {
        name: value.expand(*full, *value.shape[value.ndim - (2 if name in FORMS else 1) :]) for name, value in given.items()
    }
    for target in (full, list(full), torch.Size(full)):
        expanded = p.expand(target)
        assert (expanded.batch_shape, type(expanded.batch_shape)) == (torch.Size(full), torch.Size)
        assert expanded.loc.data_ptr() == given["loc"].data_ptr()
    same(expanded, build(whole), kappa_of(given))
    x = values(p, 2, 2, *shape)
    assert_close(p.expand(full).expand((2, *full)).log_prob(x), p.log_prob(x), kappa_of(given))
    assert p.batch_shape == batch_of(batches)


@by_form
def test_expand_size_one(form: str) -> None:
    """A dimension of one grows in place; any other does not."""
    given = {name: value.unsqueeze(0) for name, value in arguments(form).items()}
    same(
        build(given).expand((4,)),
        build({name: value.expand(4, *value.shape[1:]) for name, value in given.items()}),
        kappa_of(given),
    )
    with pytest.raises(RuntimeError):
        build(arguments(form, "both")).expand((4,))


@by_form
@pytest.mark.parametrize("validate", [True, False])
def test_expand_keeps_validation(form: str, validate: bool) -> None:
    p = build(arguments(form), validate_args=validate).expand((2,))
    bad = torch.full((2, 3), torch.nan).double()
    if validate:
        with pytest.raises(ValueError, match="value"):
            p.log_prob(bad)
    else:
        assert p.log_prob(bad).isnan().all()


@by_form
def test_subclass(form: str) -> None:
    """A subclass has the densities and divergences of its base, and must bring its own expand if it brings its own __init__."""
    base = class_of(arguments(form))
    plain = type("Plain", (base,), {})
    changed = type("Changed", (base,), {"__init__": lambda self, given: base.__init__(self, **given)})
    given, other = arguments(form), arguments(form, seed=10)
    assert type(plain(**given).expand((2,))) is plain
    for p, q in ((plain(**given), plain(**other)), (plain(**given), build(other)), (changed(given), changed(other))):
        assert_close(kl_divergence(p, q), divergence(given, other), kappa_of(given, other))
    with pytest.raises(NotImplementedError):
        changed(given).expand((2,))


@by_form
@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["copy", "deep", "pickle"]
)
def test_copies(form: str, duplicate: Callable[[Distribution], Distribution]) -> None:
    """A copy, made before or after anything was computed, is the same distribution."""
    given = arguments(form, "grid")
    p = build(given)
    fresh = duplicate(p)
    for quantity in QUANTITIES.values():
        quantity(p, p, values(p))
    for duplicated in (fresh, duplicate(p)):
        same(duplicated, p, kappa_of(given))


# Inside other distributions ---------------------------------------------------------------------------------------------------


@by_form
@by_full_batches
def test_transformed(form: str, batches: str) -> None:
    """exp of a normal vector: density by change of variables, draws with gradients, expansion."""
    given = arguments(form, batches)
    p = build({name: value.requires_grad_() for name, value in given.items()}, validate_args=False)
    q = TransformedDistribution(p, [ExpTransform()], validate_args=False)
    assert (q.batch_shape, q.event_shape) == (p.batch_shape, p.event_shape)
    y = q.rsample((4,))
    assert y.requires_grad
    with torch.no_grad():
        assert_close(q.log_prob(y), p.log_prob(y.log()) - y.log().sum(-1), kappa_of(given))
    assert q.expand((2, *p.batch_shape)).rsample().shape == (2, *p.batch_shape, 3)


@by_form
@pytest.mark.parametrize("batches", [name for name, b in BATCHES.items() if torch.broadcast_shapes(*b) not in ((), (0,))])
def test_independent(form: str, batches: str) -> None:
    """Batch dimensions taken as part of the event: densities, entropies and divergences are summed."""
    given, against = arguments(form, batches), arguments(form, batches, seed=10)
    p, q = build(given), build(against)
    joint, other = Independent(p, 1), Independent(q, 1)
    assert joint.event_shape == (p.batch_shape[-1], 3)
    x = joint.sample((2,))
    assert_close(joint.log_prob(x), p.log_prob(x).sum(-1), 1.0)
    assert_close(joint.entropy(), p.entropy().sum(-1), 1.0)
    assert_close(
        kl_divergence(joint, other), divergence(given, against).expand(p.batch_shape).sum(-1), kappa_of(given, against)
    )
    assert joint.expand((2, *joint.batch_shape)).rsample().shape == (2, *p.batch_shape, 3)


@by_form
@pytest.mark.parametrize("batches", ["loc", "matrix", "both", "grid", "deep loc"])
def test_mixture(form: str, batches: str) -> None:
    """Components of a mixture: density, mean, variance and draws."""
    given = arguments(form, batches)
    p = build(given)
    weights = Maker(batch=p.batch_shape, seed=6).normal().softmax(-1)
    mixture = MixtureSameFamily(Categorical(probs=weights), p)
    x = mixture.sample((2000,))
    assert x.shape == (2000, *p.batch_shape[:-1], 3)
    each = log_density(x.unsqueeze(-2), given["loc"], covariance(given))
    assert_close(mixture.log_prob(x), (each + weights.log()).logsumexp(-1), kappa_of(given))
    within_error(x, mixture.mean)
    within_error((x - mixture.mean) ** 2, mixture.variance)


# Arguments and values that are refused ----------------------------------------------------------------------------------------


def bad_matrices(form: str) -> dict[str, Tensor]:
    """Invalid covariances, precisions and factors."""
    good = arguments(form, "both")[form]
    bad = {"a vector": torch.ones(3).double(), "not square": torch.ones(3, 2).double()}
    bad |= {"zero": torch.zeros(3, 3).double(), "negative": -good, "NaN": torch.full((3, 3), torch.nan).double()}
    bad["one of a batch"] = torch.cat([good[:-1], -good[-1:]])
    bad["not mirrored"] = good + torch.eye(3).double().roll(1, 1)
    return bad


def bad_arguments() -> dict[str, dict[str, Tensor]]:
    """Invalid arguments, which raise a ValueError."""
    bad = {}
    for form in [form for form in FORMS if form != "cov_factor"]:
        given = arguments(form)
        bad[f"{form}: scalar loc"] = {**given, "loc": torch.tensor(0.0).double()}
        bad[f"{form}: NaN in loc"] = {**given, "loc": given["loc"] * torch.nan}
        bad |= {f"{form}: {what}": {**given, form: matrix} for what, matrix in bad_matrices(form).items()}
        for second in [second for second in FORMS if second not in ("cov_factor", form)]:
            bad[f"{form} and {second}"] = given | arguments(second)
    bad["no matrix"] = {"loc": torch.zeros(3).double()}
    bad["three matrices"] = arguments("covariance_matrix") | arguments("precision_matrix") | arguments("scale_tril")
    given = arguments("cov_factor")
    no_factor = {**given, "cov_factor": torch.zeros(3, 1).double()}
    bad["factor: scalar loc"] = {**given, "loc": torch.tensor(0.0).double()}
    bad["factor: a vector"] = {**given, "cov_factor": torch.ones(3).double()}
    bad["factor: rows"] = {**given, "cov_factor": torch.ones(2, 3).double()}
    bad["factor: diagonal's size"] = {**given, "cov_diag": torch.ones(2).double()}
    bad["factor: batches"] = {**given, "loc": torch.zeros(5, 3).double(), "cov_diag": torch.ones(4, 3).double()}
    bad["factor: NaN in loc"] = {**given, "loc": given["loc"] * torch.nan}
    bad["factor: negative diagonal"] = {**no_factor, "cov_diag": torch.tensor([1.0, -1.0, 1.0]).double()}
    return bad


@pytest.mark.parametrize("what", bad_arguments())
def test_bad_arguments(what: str) -> None:
    given = bad_arguments()[what]
    with pytest.raises(ValueError, match=ARGUMENTS):
        build(given, validate_args=True)
    with pytest.raises(ValueError, match=ARGUMENTS):  # validation is the default
        build(given)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "cov_factor"])
def test_batches_that_do_not_broadcast(form: str) -> None:
    """Refused with and without validation."""
    given = arguments(form, "both")
    for validate in (True, False):
        with pytest.raises((ValueError, RuntimeError)):
            build({**given, "loc": torch.zeros(4, 3).double()}, validate_args=validate)


@pytest.mark.parametrize("what", [what for what in bad_arguments() if "zero" in what or "negative" in what])
def test_unvalidated_is_never_plausible(what: str) -> None:
    """Without validation, an invalid covariance gives an error or no finite number."""
    try:
        p = build(bad_arguments()[what], validate_args=False)
        result = p.log_prob(torch.ones(3).double())
    except (RuntimeError, ValueError):
        return
    assert not torch.isfinite(result).all()


BAD_VALUES: dict[str, Any] = {
    "another event size": torch.zeros(5, 4),
    "event of size one": torch.zeros(5, 1),
    "no broadcast": torch.zeros(4, 3),
    "scalar": torch.tensor(0.0),
    "NaN": torch.tensor([0.0, torch.nan, 0.0]).expand(5, 3),
    "not a tensor": [0.0, 0.0, 0.0],
}


@by_form
@pytest.mark.parametrize("what", BAD_VALUES)
def test_bad_values(form: str, what: str) -> None:
    value = BAD_VALUES[what]
    with pytest.raises(ValueError, match=r"[Vv]alue"):
        build(arguments(form, "both")).log_prob(value.double() if isinstance(value, Tensor) else value)


@by_form
def test_default_of_validation(form: str) -> None:
    """set_default_validate_args applies to these classes, unless the constructor's argument overrides it."""
    given, bad = arguments(form), torch.full((3,), torch.nan).double()
    kept = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(False)
        assert build(given).log_prob(bad).isnan()
        with pytest.raises(ValueError, match="value"):
            build(given, validate_args=True).log_prob(bad)
    finally:
        Distribution.set_default_validate_args(kept)
    with pytest.raises(ValueError, match="value"):
        build(given).log_prob(bad)


# Constraints ------------------------------------------------------------------------------------------------------------------


@by_form
@by_full_batches
def test_constraints_hold(form: str, batches: str) -> None:
    """The parameters satisfy the constraints declared for them, and draws the support; both have torch's event sizes."""
    given = arguments(form, batches)
    p, theirs = build(given), class_of(given, TORCH)
    assert p.arg_constraints.keys() == theirs.arg_constraints.keys()
    assert p.support.event_dim == 1
    for name, constraint in p.arg_constraints.items():
        assert not constraints.is_dependent(constraint)
        assert constraint.event_dim == theirs.arg_constraints[name].event_dim, name
        valid = constraint.check(getattr(p, name))
        assert valid.shape == p.batch_shape, name
        assert valid.all(), name
    valid = p.support.check(p.sample((2,)))
    assert valid.shape == (2, *p.batch_shape)
    assert valid.all()


@by_form
def test_unconstrained_parameters(form: str) -> None:
    """transform_to maps unconstrained numbers to valid parameters."""
    given = arguments(form, "both")
    declared = class_of(given).arg_constraints
    made = {}
    for name, value in given.items():
        transform = transform_to(declared[name])
        unconstrained = transform.inv(value)
        made[name] = transform(unconstrained + 0.1 * torch.randn_like(unconstrained))
        assert_close(transform(unconstrained), value, kappa_of(given), what=name)
    p = build(made, validate_args=True)
    assert torch.isfinite(p.log_prob(p.sample())).all()


# Derivatives ------------------------------------------------------------------------------------------------------------------


def own_freedom(name: str, t: Tensor) -> Tensor:
    """The relevant part of a gradient or a weight: symmetric for a symmetric matrix, lower for a triangle."""
    if name in ("covariance_matrix", "precision_matrix"):
        return 0.5 * (t + t.mT)
    return t.tril() if name == "scale_tril" else t


def weights(name: str, like: Tensor, seed: int) -> Tensor:
    return own_freedom(name, Maker(batch=like.shape, seed=seed).normal()).to(like.dtype)


def gradients(scalar: Tensor, leaves: dict[str, Tensor], create_graph: bool = False) -> dict[str, Tensor]:
    """The gradient with respect to each leaf; zeros if the result does not depend on it."""
    if not scalar.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(scalar, list(leaves.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def derivatives(
    quantity: str, given: dict[str, Tensor], other: dict[str, Tensor], x: Tensor, module: Any, order: int
) -> dict[str, Tensor]:
    """By the parameters and x: of a weighted sum of the quantity; second order, of a weighted sum of those."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in {**given, "x": x}.items()}
    at = leaves.pop("x")
    result = evaluate(quantity, leaves, other, at, module)
    leaves["x"] = at
    first = gradients((result * weights(quantity, result, 20)).sum(), leaves, create_graph=order > 1)
    if order > 1:
        scalar = sum((g * weights(name, g, 21 + i)).sum() for i, (name, g) in enumerate(first.items()))
        first = gradients(scalar, leaves)
    return {name: own_freedom(name, g) for name, g in first.items()}


def check_derivatives(form: str, batches: str, dtype: torch.dtype, order: int) -> None:
    given, other = arguments(form, batches, dtype), arguments("scale_tril", dtype=dtype, seed=10)
    x, kappa = values(build(given), 2), kappa_of(given, other) ** order
    for quantity in QUANTITIES:
        actual = derivatives(quantity, given, other, x, OURS, order)
        expected = derivatives(quantity, *converted(reference_dtype(quantity, dtype), given, other, x), TORCH, order)
        assert actual.keys() == expected.keys()
        for name, gradient in actual.items():
            largest = float(expected[name].abs().max()) if gradient.numel() else 1.0
            assert_close(gradient, expected[name], kappa, what=f"{quantity} by {name}", scale=max(largest, 1.0))


@by_form
@by_batches
@by_dtype
def test_gradients(form: str, batches: str, dtype: torch.dtype) -> None:
    """Gradients of all results with respect to all parameters and the value are the same as in torch."""
    check_derivatives(form, batches, dtype, order=1)


@by_form
@pytest.mark.parametrize("batches", ["none", "grid", "empty"])
def test_second_derivatives(form: str, batches: str) -> None:
    """Second-order gradients are the same as in torch."""
    check_derivatives(form, batches, torch.float64, order=2)


@by_form
@pytest.mark.parametrize("batches", ["none", "grid"])
def test_gradcheck(form: str, batches: str) -> None:
    """Against finite differences, reverse and forward mode."""
    given = arguments(form, batches, d=2)
    x = values(build(given))

    def density(x: Tensor, *parameters: Tensor) -> Tensor:
        moved = {name: own_freedom(name, value) for name, value in zip(given, parameters, strict=True)}
        return build(moved, validate_args=False).log_prob(x)

    leaves = [t.clone().requires_grad_() for t in (x, *given.values())]
    assert gradcheck(density, leaves, check_forward_ad=True)


#: torch's precision_matrix is not among them: forward mode through cholesky_inverse is wrong in torch 2.13
FORWARD = ("log_prob", "entropy", "kl from p", "kl to p", "variance", "scale_tril", "covariance_matrix")


@by_form
@pytest.mark.parametrize("quantity", [*FORWARD, pytest.param("precision_matrix", marks=ours_alone)])
def test_forward_mode(quantity: str, form: str) -> None:
    """A directional derivative is the gradient times the direction."""
    given, other = arguments(form, "both"), arguments("scale_tril", seed=10)
    x = values(build(given))
    direction = {name: weights(name, value, 30 + i) for i, (name, value) in enumerate(given.items())}
    q = build(other, validate_args=False)

    def total(parameters: dict[str, Tensor]) -> Tensor:
        result = QUANTITIES[quantity](build(parameters, validate_args=False), q, x)
        return (result * weights(quantity, result.detach(), 20)).sum()

    expected = derivatives(quantity, given, other, x, TORCH, order=1)
    terms = torch.stack([(expected[name] * direction[name]).sum() for name in given])
    assert_close(jvp(total, (given,), (direction,))[1], terms.sum(), kappa_of(given, other), scale=float(terms.abs().sum()))


@by_form
def test_hessian(form: str) -> None:
    """The second derivative by the value, and by the mean, is minus the precision."""
    given = arguments(form)
    p, x = build(given), values(build(given))
    by_value = hessian(build(given, validate_args=False).log_prob)(x)
    by_mean = hessian(lambda loc: build({**given, "loc": loc}, validate_args=False).log_prob(x))(given["loc"])
    for H in (by_value, by_mean):
        assert_close(H, -p.precision_matrix, kappa_of(given))


@by_form
@pytest.mark.parametrize("quantity", [name for name in QUANTITIES if name != "rsample"])
def test_vmap(quantity: str, form: str) -> None:
    """Mapped over all parameters, or over one and the value alone, the result is that of the batch."""
    given, other = arguments(form, "both"), build(arguments("scale_tril", seed=10), validate_args=False)
    x = values(build(given))

    def single(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return QUANTITIES[quantity](build(parameters, validate_args=False), other, x)

    for mapped in (list(given), ["loc"], [form], []):
        some = {name: value if name in mapped else value[0] for name, value in given.items()}
        dims = {name: 0 if name in mapped else None for name in given}
        actual = vmap(single, in_dims=(0, dims))(x, some)
        expected = single(x, some)
        if not mapped and quantity != "log_prob":
            expected = expected.expand(5, *expected.shape)
        assert_close(actual, expected.expand_as(actual), kappa_of(given), what=f"over {mapped}")


@by_form
def test_gradients_of_each_row(form: str) -> None:
    """vmap of grad: one gradient for each row, which for independent rows is the batch's."""
    given = arguments(form, "both")
    x = values(build(given))

    def single(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return build(parameters, validate_args=False).log_prob(x)

    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    expected = gradients(build(leaves, TORCH).log_prob(x).sum(), leaves)
    for name, actual in vmap(grad(single, argnums=1))(x, given).items():
        assert_close(own_freedom(name, actual), own_freedom(name, expected[name]), kappa_of(given), what=name)


# What only mvnjac promises ----------------------------------------------------------------------------------------------------

#: every way to factorise a matrix, or to come by a determinant or an inverse, that there is in torch.linalg
FACTORISATIONS = (
    *("cholesky", "cholesky_ex", "eig", "eigh", "eigvals", "eigvalsh", "svd", "svdvals", "qr", "cond", "matrix_rank", "pinv"),
    *("inv", "inv_ex", "det", "slogdet", "solve", "solve_ex", "lu", "lu_factor", "lu_factor_ex", "ldl_factor", "ldl_factor_ex"),
)


@pytest.fixture
def factorisations(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls while a test runs."""
    counted: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            counted[name] += 1
            return function(*args, **options)

        return call

    for name in FACTORISATIONS:
        monkeypatch.setattr(torch.linalg, name, counting(name, getattr(torch.linalg, name)))
    return counted


@ours_alone
@by_form
@pytest.mark.parametrize("validate", [True, False], ids=["validated", "not validated"])
def test_one_factorisation(form: str, validate: bool, factorisations: Counter[str]) -> None:
    """Validation, densities, draws, entropies, gradients and expansions share one factorisation; a given factor needs none."""
    given = arguments(form, "grid")
    x = values(build(given, TORCH))
    factorisations.clear()
    p = build({name: value.requires_grad_() for name, value in given.items()}, validate_args=validate)
    for q in (p, p.expand((2, *p.batch_shape))):
        (q.log_prob(x).sum() + q.log_prob(x).sum() + q.rsample().sum() + q.entropy().sum()).backward(retain_graph=True)
    assert factorisations.total() == (0 if form == "scale_tril" else 1), factorisations


@ours_alone
@by_form
@by_batches
@by_dtype
def test_gradients_lie_where_the_parameters_lie(form: str, batches: str, dtype: torch.dtype) -> None:
    """By a symmetric matrix they are symmetric, by a triangle they are lower triangular: a step along them stays valid."""
    given = arguments(form, batches, dtype)
    leaves = {name: value.clone().requires_grad_() for name, value in given.items()}
    p = build(leaves)
    total = p.log_prob(values(p, 2)).sum() + p.entropy().sum()
    for name, gradient in gradients(total, leaves).items():
        assert_close(gradient, own_freedom(name, gradient), 1.0, what=name)


def refused_by_mvnjac() -> dict[str, dict[str, Tensor]]:
    """Arguments that torch accepts, or refuses with an error that is no ValueError."""
    bad = {}
    for form in [form for form in FORMS if form != "cov_factor"]:
        given = arguments(form, "both")
        bad[f"{form}: event size"] = {**given, "loc": torch.zeros(5, 4).double()}
        bad[f"{form}: batches"] = {**given, "loc": torch.zeros(4, 3).double()}
    bad["scale_tril: not square"] = {"loc": torch.zeros(3).double(), "scale_tril": torch.eye(3, 2).double()}
    given = arguments("cov_factor", "both")
    bad["cov_factor: NaN"] = {**given, "cov_factor": given["cov_factor"] * torch.nan}
    bad["cov_diag: NaN"] = {**given, "cov_diag": given["cov_diag"] * torch.nan}
    bad["cov_diag: negative"] = {**given, "cov_diag": -0.1 * given["cov_diag"]}
    return bad


@ours_alone
@pytest.mark.parametrize("what", refused_by_mvnjac())
def test_refused_by_mvnjac(what: str) -> None:
    """The error is a ValueError and one of mvnjac's own, and it names an argument that was given."""
    given = refused_by_mvnjac()[what]
    with pytest.raises(ValueError, match="|".join(given)) as caught:
        build(given)
    assert isinstance(caught.value, MvnjacError)


@ours_alone
@by_form
def test_no_rows(form: str) -> None:
    """No rows are no special case: with validation, for an empty batch as for empty values, with gradients."""
    given = {name: value.requires_grad_() for name, value in arguments(form).items()}
    p = build(given, validate_args=True)
    assert p.log_prob(torch.zeros(0, 3).double()).shape == (0,)
    assert all((g == 0).all() for g in gradients(p.log_prob(p.sample((0,))).sum(), given).values())
    several = {name: value.expand(0, *value.shape) for name, value in given.items()}
    for parameters in ({**given, "loc": several["loc"]}, {**several, "loc": given["loc"]}, several):
        empty = build(parameters, validate_args=True)
        assert empty.log_prob(empty.sample((2,))).shape == (2, 0)
        assert kl_divergence(empty, empty).shape == kl_divergence(p, empty).shape == empty.entropy().shape == (0,)


@ours_alone
@by_pair
@pytest.mark.parametrize("batch", [(1, 5), (5, 1)], ids=str)
def test_divergence_of_any_batches(form: str, other: str, batch: tuple[int, ...]) -> None:
    """Each parameter may have a batch of its own, the factor's diagonal too, with more dimensions than the factor."""
    given, against = arguments(form, "both"), arguments(other, "both", seed=10)
    last = list(given)[-1]
    given[last] = given[last].reshape(*batch, *given[last].shape[1:])
    for p, q in ((given, against), (against, given)):
        assert_close(kl_divergence(build(p), build(q)), divergence(p, q), kappa_of(p, q))


@ours_alone
@by_form
def test_vmap_of_draws(form: str) -> None:
    """Draws can be made inside vmap, each its own."""
    p = build(arguments(form), validate_args=False)
    draws = vmap(lambda shift: p.rsample((2,)) + shift, randomness="different")(torch.zeros(4).double())
    assert draws.shape == (4, 2, 3)
    assert len(draws.flatten().unique()) == draws.numel()


@ours_alone
@by_form
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: p], ids=["copy", "deep", "itself"])
def test_parameters_changed_in_place(form: str, duplicate: Callable[[Distribution], Distribution]) -> None:
    """The density is that of the numbers as they are now, as after an optimiser's step; for a copy too, made after that."""
    given = arguments(form)
    p, x = build(given), values(build(given), 2)
    p.log_prob(x)
    for value in given.values():
        value.mul_(2)
    expected = build({name: value.clone() for name, value in given.items()}).log_prob(x)
    assert_close(duplicate(p).log_prob(x), expected, kappa_of(given))


@ours_alone
@by_form
def test_what_is_no_tensor(form: str) -> None:
    """A loc that is no tensor of real numbers is refused with and without validation, by its name."""
    given = arguments(form)
    for bad in ([0.0, 0.0, 0.0], given["loc"] > 0, given["loc"] + 0j):
        for validate in (True, False):
            with pytest.raises(DtypeError, match="loc"):
                class_of(given)(**{**given, "loc": bad}, validate_args=validate)
