"""Uses of a distribution after its construction: assignment, changes in place, mixed dtypes, wrappers, and subclasses.

Where torch's class and ours must agree, the reference is a new distribution of torch.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    ExpTransform,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    biject_to,
    constraints,
    kl_divergence,
    transform_to,
)
from torch.distributions.transforms import AffineTransform

import mvnjac
from mvnjac import distributions
from mvnjac.covariance.samples import Maker
from mvnjac.errors import DeviceError, DtypeError, MvnjacError, NotSymmetricError, ReadOnlyError, ShapeError

OURS, TORCH = distributions, torch.distributions
FORMS = ("covariance_matrix", "precision_matrix", "scale_tril", "cov_factor")
MATRICES = FORMS[:3]

by_module = pytest.mark.parametrize("module", [TORCH, OURS], ids=["torch", "ours"])
by_form = pytest.mark.parametrize("form", FORMS)
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def _validated() -> Any:
    """Restores validation, which torch.compile switches off for the whole process."""
    kept = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    yield
    Distribution.set_default_validate_args(kept)


def given(form: str, *batch: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Arguments besides loc."""
    make = Maker(dtype, batch, seed=1)
    if form == "cov_factor":
        return {"cov_factor": make.normal(3, 2), "cov_diag": make.positive(3)}
    return {form: make.lower(3) if form == "scale_tril" else make.definite(3)}


def build(module: Any, loc: Tensor, arguments: dict[str, Tensor], **options: Any) -> Any:
    low_rank = "cov_factor" in arguments
    return (module.LowRankMultivariateNormal if low_rank else module.MultivariateNormal)(loc, **arguments, **options)


def covariance(arguments: dict[str, Tensor]) -> Tensor:
    return build(TORCH, torch.zeros(3, dtype=torch.float64), arguments).covariance_matrix


def normal(*shape: int, seed: int = 2) -> Tensor:
    return Maker(batch=shape, seed=seed).normal(3)


def draw(p: Distribution) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return p.rsample((2,))


# loc ---------------------------------------------------------------------------------------------------------------------------

#: uses of a distribution after loc was assigned
USES: dict[str, Callable[[Any], Tensor]] = {
    "log_prob": lambda d: d.log_prob(normal(4)),
    "mean": lambda d: d.mean,
    "mode": lambda d: d.mode,
    "variance": lambda d: d.variance,
    "rsample": draw,
    "entropy": lambda d: d.entropy(),
    "kl from": lambda d: kl_divergence(d, build(TORCH, torch.zeros(3).double(), given("scale_tril"))),
    "kl to": lambda d: kl_divergence(build(TORCH, torch.zeros(3).double(), given("scale_tril")), d),
    "expand": lambda d: d.expand((2,)).log_prob(normal(2)),
    "expanded twice": lambda d: d.expand((2,)).expand((4, 2)).rsample().detach().isfinite(),
    "copy": lambda d: copy.copy(d).log_prob(normal(4)),
    "deepcopy": lambda d: copy.deepcopy(d).log_prob(normal(4)),
    "pickle": lambda d: pickle.loads(pickle.dumps(d)).log_prob(normal(4)),
    "independent": lambda d: Independent(d.expand((4,)), 1).log_prob(normal(4)),
    "mixture": lambda d: MixtureSameFamily(Categorical(torch.ones(2).double()), d.expand((2,))).log_prob(normal(4)),
    "transformed": lambda d: TransformedDistribution(d, AffineTransform(1.0, 2.0)).log_prob(normal(4)),
    "mvnjac.log_prob": lambda d: mvnjac.log_prob(normal(4), d),
    "mvnjac.jacobian": lambda d: mvnjac.jacobian(normal(4), d)["mean"],
    "Gaussian": lambda d: mvnjac.Gaussian(d).log_prob(normal(4)),
}


@by_module
@by_form
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("asked", [False, True], ids=["fresh", "asked before"])
def test_assigned_loc(module: Any, form: str, use: str, asked: bool) -> None:
    """All results use the assigned loc, also if results were computed before."""
    own = given(form)
    d = build(module, torch.zeros(3).double(), own)
    if asked:
        d.log_prob(normal(4)), d.rsample(), d.entropy(), d.covariance_matrix
    loc = normal(seed=5)
    d.loc = loc
    assert d.loc is loc
    close(USES[use](d), USES[use](build(TORCH, loc, own)))


@by_module
@by_form
@pytest.mark.parametrize(
    "use", [use for use in USES if use not in ("entropy", "variance", "deepcopy", "pickle", "expanded twice")]
)
def test_gradient_by_loc(module: Any, form: str, use: str) -> None:
    """`d.loc` can be made a leaf, assigned as a parameter, or be what was given; and it is what gradients are asked by."""
    own, loc = given(form), normal(seed=5)
    leaf = loc.clone().requires_grad_()
    (expected,) = torch.autograd.grad(USES[use](build(TORCH, leaf, own)).sum(), leaf)
    late = build(module, loc.clone(), own)
    late.loc.requires_grad_()
    assigned = build(module, torch.zeros(3).double(), own)
    assigned.loc = torch.nn.Parameter(loc.clone())
    for d in (late, assigned, build(module, loc.clone().requires_grad_(), own)):
        close(torch.autograd.grad(USES[use](d).sum(), d.loc)[0], expected)


@by_module
def test_making_loc_a_leaf_leaves_what_was_given(module: Any) -> None:
    loc = torch.zeros(3)
    build(module, loc, {"covariance_matrix": torch.eye(3)}).loc.requires_grad_()
    assert not loc.requires_grad


@by_module
@by_form
@pytest.mark.parametrize(("batch", "own"), [((5,), ()), ((), (5,)), ((5,), (5,)), ((4, 1), (5,))], ids=str)
def test_gradient_by_loc_of_a_batch(module: Any, form: str, batch: tuple[int, ...], own: tuple[int, ...]) -> None:
    """The gradient by `d.loc` is each row's own, Σ⁻¹(x − µ), also of an expanded distribution."""
    arguments, loc = given(form, *own), Maker(batch=batch, seed=5).normal(3).requires_grad_()
    d = build(module, loc, arguments)
    for p in (d, d.expand((2, *d.batch_shape))):
        x = normal(*p.batch_shape)
        (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), p.loc)
        expected = torch.linalg.solve(covariance(arguments), (x - loc).unsqueeze(-1)).squeeze(-1)
        close(gradient, expected.detach().expand(gradient.shape))
        assert gradient.shape == p.loc.shape


@by_module
@by_form
def test_loc_changed_in_place(module: Any, form: str) -> None:
    own, x = given(form), normal(4)
    d = build(module, torch.zeros(3).double(), own)
    d.log_prob(x)
    d.loc.add_(1)
    close(d.log_prob(x), build(TORCH, torch.ones(3).double(), own).log_prob(x))
    d.loc.copy_(normal(seed=5))
    close(d.log_prob(x), build(TORCH, normal(seed=5), own).log_prob(x))


@by_module
@by_form
def test_loc_belongs_to_one_object(module: Any, form: str) -> None:
    """Assigning it to a copy, or to what was expanded from it, leaves the other as it is."""
    own, x = given(form), normal(4)
    d = build(module, torch.zeros(3).double(), own)
    for other in (copy.copy(d), copy.deepcopy(d), d.expand((4,))):
        before = other.log_prob(x).clone()
        d.loc = normal(seed=5)
        close(other.log_prob(x), before)
        d.loc = torch.zeros(3).double()
        other.loc = normal(seed=6)
        close(d.log_prob(x), before)
        close(other.log_prob(x), build(TORCH, normal(seed=6), own).log_prob(x))


@by_module
@by_form
def test_loc_with_a_larger_batch(module: Any, form: str) -> None:
    """As in torch the density is of the batch of loc, and `batch_shape` is what it was."""
    own, loc, x = given(form), normal(4, seed=5), normal()
    d = build(module, torch.zeros(3).double(), own)
    d.loc = loc
    close(d.log_prob(x), build(TORCH, loc, own).log_prob(x))
    assert d.rsample().shape == (4, 3)
    assert d.batch_shape == ()


@by_module
def test_loc_as_a_property_of_a_subclass(module: Any) -> None:
    """Each call uses the current value of the attribute."""

    class ShiftedNormal(module.MultivariateNormal):  # type: ignore[misc, name-defined]
        shift = 0.0

        @property
        def loc(self) -> Tensor:
            return self.base + self.shift

        @loc.setter
        def loc(self, value: Tensor) -> None:
            self.base = value

    d = ShiftedNormal(torch.zeros(3), torch.eye(3))
    d.shift = 1.0
    close(d.log_prob(torch.zeros(3)), TORCH.MultivariateNormal(torch.ones(3), torch.eye(3)).log_prob(torch.zeros(3)))


def test_loc_that_does_not_fit() -> None:
    """torch fails when a density is computed; our error names the mismatch."""
    d = OURS.MultivariateNormal(torch.zeros(3), torch.eye(3).expand(2, 3, 3))
    for bad, error in ((torch.zeros(4), ShapeError), (torch.zeros(5, 3), ShapeError), ([0.0], DtypeError)):
        d.loc = bad
        with pytest.raises(error, match=r"MultivariateNormal: .*loc"):
            d.log_prob(torch.zeros(3))
    d.loc = torch.ones(3)
    close(d.log_prob(torch.ones(3)), TORCH.MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(torch.zeros(3)).expand(2))


# The covariance ----------------------------------------------------------------------------------------------------------------


@by_form
@pytest.mark.parametrize("name", [*MATRICES, "cov_factor", "cov_diag"])
def test_covariance_cannot_be_assigned(form: str, name: str) -> None:
    """torch's object becomes inconsistent; ours raises an error and is unchanged."""
    own, x = given(form), normal(4)
    d = build(OURS, torch.zeros(3).double(), own)
    if not hasattr(type(d), name):
        return
    before = d.log_prob(x), d.covariance_matrix, getattr(d, name).clone()
    with pytest.raises(ReadOnlyError, match=rf"Normal\.{name} cannot be assigned.*Create a new .*MultivariateNormal"):
        setattr(d, name, 4 * before[2])
    assert isinstance(ReadOnlyError(), AttributeError)
    assert isinstance(ReadOnlyError(), MvnjacError)
    close((d.log_prob(x), d.covariance_matrix, getattr(d, name)), before)


#: results that depend on the covariance
DIFFERENTIABLE: dict[str, Callable[[Any], Tensor]] = {
    "log_prob": lambda d: d.log_prob(normal(4, *d.batch_shape)),
    "rsample": draw,
    "entropy": lambda d: d.entropy(),
    "kl": lambda d: kl_divergence(d, build(TORCH, torch.ones(3).double(), given("scale_tril"))),
}


@by_form
@pytest.mark.parametrize("what", DIFFERENTIABLE)
@pytest.mark.parametrize("batch", [(), (5,)], ids=str)
def test_gradient_by_the_attribute(form: str, what: str, batch: tuple[int, ...]) -> None:
    """By the attribute that was given, which torch's graph does not reach; torch's gradient by the tensor is the reference."""
    leaves = {name: value.clone().requires_grad_() for name, value in given(form, *batch).items()}
    loc = torch.zeros(*batch, 3).double()
    expected = torch.autograd.grad(DIFFERENTIABLE[what](build(TORCH, loc, leaves)).sum(), list(leaves.values()))
    late = build(OURS, loc, given(form, *batch))
    for name in leaves:
        getattr(late, name).requires_grad_()
    for d in (build(OURS, loc, leaves), late):
        actual = torch.autograd.grad(DIFFERENTIABLE[what](d).sum(), [getattr(d, name) for name in leaves])
        for name, mine, theirs in zip(leaves, actual, expected, strict=True):
            if name == "scale_tril":
                mine, theirs = mine.tril(), theirs.tril()
            elif name in MATRICES:
                theirs = 0.5 * (theirs + theirs.mT)
            close(mine, theirs)


@by_form
def test_derived_parameters_follow_a_change_in_place(form: str) -> None:
    """The other forms of the covariance are those of the numbers as they are now, as the density is."""
    own = given(form)
    d = build(OURS, torch.zeros(3).double(), own)
    names = [name for name in (*MATRICES, "variance") if name not in own]
    before = {name: getattr(d, name).clone() for name in names}
    for value in own.values():
        value.mul_(4)
    fresh = build(TORCH, torch.zeros(3).double(), own)
    for name in names:
        close(getattr(d, name), getattr(fresh, name))
        assert not torch.equal(getattr(d, name), before[name])


# Classes that are derived ------------------------------------------------------------------------------------------------------

CONSTRAINTS: dict[str, Any] = {
    "none": {},
    "of loc alone": {"loc": constraints.real_vector},
    "of another kind": {"loc": constraints.independent(constraints.positive, 1), "scale_tril": constraints.lower_cholesky},
    "property": property(lambda self: {"loc": constraints.real_vector}),
}


@by_module
@pytest.mark.parametrize("form", MATRICES)
@pytest.mark.parametrize("declared", CONSTRAINTS)
def test_subclass_with_other_constraints(module: Any, form: str, declared: str) -> None:
    """Validation uses the constraints of the subclass."""
    own = type("Own", (module.MultivariateNormal,), {"arg_constraints": CONSTRAINTS[declared]})
    arguments, loc, x = given(form), torch.ones(3).double(), normal(4)
    d, reference = own(loc, **arguments), build(TORCH, loc, arguments)
    close(d.log_prob(x), reference.log_prob(x))
    close(d.expand((4,)).log_prob(x), reference.log_prob(x))
    close(draw(d), draw(reference))
    close(copy.deepcopy(d).covariance_matrix, reference.covariance_matrix)
    assert ("loc" in repr(d)) == (declared != "none")
    if declared == "of another kind":
        with pytest.raises(ValueError, match="loc"):
            own(-loc, **arguments)
    if declared == "none":
        assert own(loc * torch.nan, **arguments).log_prob(x).isnan().all()


@by_module
def test_subclass_with_another_support(module: Any) -> None:
    own = type("Positive", (module.MultivariateNormal,), {"support": constraints.independent(constraints.positive, 1)})
    d = own(torch.zeros(3), torch.eye(3))
    assert d.log_prob(torch.ones(3)).isfinite()
    for p in (d, d.expand((2,))):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(-torch.ones(3))


@by_module
def test_subclass_without_validation(module: Any) -> None:
    own = type("Unvalidated", (module.MultivariateNormal,), {"_validate_args": False})
    assert own(torch.zeros(3), torch.eye(3)).log_prob(torch.full((3,), torch.nan)).isnan()


# Dtypes ------------------------------------------------------------------------------------------------------------------------

KINDS = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64)


@by_module
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loc_kind", KINDS, ids=str)
@pytest.mark.parametrize("x_kind", KINDS, ids=str)
@pytest.mark.parametrize("form", MATRICES)
def test_dtypes(module: Any, form: str, x_kind: torch.dtype, loc_kind: torch.dtype, kind: torch.dtype) -> None:
    """The density has the dtype of the covariance, whatever those of x and loc are; x − µ is formed in the wider of the two."""
    own = given(form, dtype=kind)
    x, loc = (10 * normal(4)).to(x_kind), (10 * normal(seed=5)).to(loc_kind)
    result = build(module, loc, own).log_prob(x)
    residual = (x - loc).to(kind).double()
    expected = build(TORCH, torch.zeros(3).double(), {name: t.double() for name, t in own.items()}).log_prob(residual)
    assert result.dtype == kind
    close(result.double(), expected, rtol=2e-5 if kind is torch.float32 else 1e-12, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("module", "form"), [*((OURS, form) for form in FORMS), *((TORCH, form) for form in MATRICES)])
def test_low_precision_parameters_and_their_gradients(module: Any, form: str, kind: torch.dtype) -> None:
    """Outputs of a network under autocast as loc and x: gradients have their dtype."""
    own = given(form, dtype=torch.float32)
    loc, x = normal(4, seed=5).to(kind).requires_grad_(), normal(4).to(kind).requires_grad_()
    d = build(module, loc, own)
    assert d.loc.dtype == kind
    by_loc, by_x = torch.autograd.grad(d.log_prob(x).sum(), (loc, x))
    r = (x.double() - loc.double()).detach()
    expected = torch.linalg.solve(covariance({name: t.double() for name, t in own.items()}), r.unsqueeze(-1)).squeeze(-1)
    for gradient, sign in ((by_loc, 1), (by_x, -1)):
        assert gradient.dtype == kind
        tolerance = 4 * torch.finfo(kind).eps * float(expected.abs().max())  # rounded to the network's dtype, once or twice
        close(gradient.double(), sign * expected, rtol=0, atol=tolerance)


@by_module
def test_residuals_keep_the_wider_dtype(module: Any) -> None:
    """At 1e8 float32 has steps of 8: the difference is formed before it is rounded."""
    loc = torch.full((3,), 1e8, dtype=torch.float64)
    x = loc + 1
    result = module.MultivariateNormal(loc, torch.eye(3)).log_prob(x)
    close(result, TORCH.MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(torch.ones(3)))


@by_module
def test_under_autocast(module: Any) -> None:
    """A network's bfloat16 output as loc, or as the value, of a float32 covariance: the density is float32, as good as outside."""
    layer = torch.nn.Linear(3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(torch.ones(4, 3))
        d = module.MultivariateNormal(output, torch.eye(3))
        result, other = d.log_prob(torch.zeros(3)), module.MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(output)
    assert output.dtype == torch.bfloat16
    expected = -0.5 * (output.double().square().sum(-1) + 3 * torch.tensor(2 * torch.pi).double().log())
    close((result.double(), other.double()), (expected, expected), rtol=1e-5, atol=1e-5)
    result.sum().backward()
    assert layer.weight.grad is not None


def test_draws_and_divergences_of_mixed_dtypes() -> None:
    """Where torch's draws fail, ours are of the promoted dtype; divergences are of the wider one, as torch's are."""
    sigma = given("covariance_matrix")["covariance_matrix"]
    for loc_kind, kind, drawn in (
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float64),
        (torch.int64, torch.float32, torch.float32),
    ):
        d = OURS.MultivariateNormal(torch.ones(3).to(loc_kind), sigma.to(kind))
        assert d.rsample().dtype == drawn
        close(draw(d).to(kind), draw(TORCH.MultivariateNormal(torch.ones(3).to(kind), sigma.to(kind))))
    low, high = (
        OURS.MultivariateNormal(torch.ones(3), sigma.float()),
        OURS.MultivariateNormal(torch.zeros(3).double(), 2 * sigma),
    )
    for p, q in ((low, high), (high, low)):
        expected = kl_divergence(*(TORCH.MultivariateNormal(d.loc.double(), d.covariance_matrix.double()) for d in (p, q)))
        close(kl_divergence(p, q), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "bad", [torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.complex64)], ids=["bool", "complex"]
)
def test_what_is_no_number_is_refused(bad: Tensor) -> None:
    with pytest.raises(DtypeError, match="value"):
        OURS.MultivariateNormal(torch.zeros(3), torch.eye(3), validate_args=False).log_prob(bad)
    with pytest.raises(DtypeError, match="loc"):
        OURS.MultivariateNormal(bad, torch.eye(3))


def test_values_on_another_device() -> None:
    """Whether the dtypes agree or not."""
    d = OURS.MultivariateNormal(torch.zeros(3), torch.eye(3), validate_args=False)
    for kind in (torch.float32, torch.bfloat16):
        with pytest.raises(DeviceError, match="meta"):
            d.log_prob(torch.ones(3, dtype=kind, device="meta"))


# Asymmetry ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["covariance_matrix", "precision_matrix"])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("what", [*DIFFERENTIABLE, "variance", "scale_tril"])
def test_asymmetry(form: str, requires_grad: bool, what: str) -> None:
    """Asymmetric matrices that torch accepts give the same results as in torch, with and without gradients."""
    matrix = given(form)[form] + 9e-7 * torch.ones(3, 3).double().triu(1)
    own = {form: matrix.clone().requires_grad_(requires_grad)}
    use = DIFFERENTIABLE.get(what, lambda d: getattr(d, what))
    actual, expected = (use(build(module, torch.zeros(3).double(), own)) for module in (OURS, TORCH))
    close(actual, expected, rtol=1e-12, atol=1e-12)
    if requires_grad and what in DIFFERENTIABLE:
        mine, theirs = (torch.autograd.grad(result.sum(), own[form])[0] for result in (actual, expected))
        close(mine, 0.5 * (theirs + theirs.mT), rtol=1e-10, atol=1e-10)


@by_module
@pytest.mark.parametrize("form", ["covariance_matrix", "precision_matrix"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("asymmetry", "accepted"), [(9e-7, True), (1e-5, True), (1e-4, False)])
def test_tolerance_of_asymmetry(module: Any, form: str, kind: torch.dtype, asymmetry: float, accepted: bool) -> None:
    """|A − Aᵀ| ≤ 1e-6 + 1e-5 |Aᵀ|, in either dtype; without validation anything."""
    matrix = torch.tensor([[4.0, 1.0], [1.0, 4.0]], dtype=kind)
    matrix[0, 1] += asymmetry
    build(module, torch.zeros(2, dtype=kind), {form: matrix}, validate_args=False)
    if accepted:
        build(module, torch.zeros(2, dtype=kind), {form: matrix})
    else:
        with pytest.raises(ValueError, match=form) as caught:
            build(module, torch.zeros(2, dtype=kind), {form: matrix})
        assert module is TORCH or isinstance(caught.value, NotSymmetricError)


# Missing entries ---------------------------------------------------------------------------------------------------------------


def gaps() -> Tensor:
    x = normal(5)
    x[0, 1], x[1, 0], x[1, 2], x[3] = torch.nan, torch.nan, torch.nan, torch.nan
    return x


def marginals(loc: Tensor, arguments: dict[str, Tensor], x: Tensor) -> Tensor:
    """The density of the observed entries of each row, by torch."""
    sigma = covariance(arguments)
    rows = []
    for row in x:
        o = (~row.isnan()).nonzero().squeeze(-1)
        part = TORCH.MultivariateNormal(loc[o], sigma[o][:, o]) if len(o) else None
        rows.append(loc.new_zeros(()) if part is None else part.log_prob(row[o]))
    return torch.stack(rows)


@by_form
def test_missing_entries(form: str) -> None:
    """With the keyword NaN marks what was not observed, in values that are validated, with gradients; without it is refused."""
    x, leaves = gaps(), {name: t.requires_grad_() for name, t in {"loc": normal(seed=5), **given(form)}.items()}
    own = {name: t for name, t in leaves.items() if name != "loc"}
    expected = marginals(leaves["loc"], own, x)
    references = torch.autograd.grad(expected.sum(), list(leaves.values()))
    d = build(OURS, leaves["loc"], own, missing="marginalise")
    for p in (d, d.expand((5,)), copy.copy(d)):
        close(p.log_prob(x), expected)
        for name, mine, theirs in zip(
            leaves, torch.autograd.grad(p.log_prob(x).sum(), list(leaves.values())), references, strict=True
        ):
            symmetric = name in ("covariance_matrix", "precision_matrix")
            triangle = name == "scale_tril"
            close(
                mine.tril() if triangle else mine,
                theirs.tril() if triangle else 0.5 * (theirs + theirs.mT) if symmetric else theirs,
            )
    with pytest.raises(ValueError, match="support"):
        build(OURS, leaves["loc"], own).log_prob(x)
    assert d.log_prob(x[3]) == 0


@by_form
def test_missing_entries_inside_other_distributions(form: str) -> None:
    x, loc, own = gaps(), normal(seed=5), given(form)
    d, expected = build(OURS, loc, own, missing="marginalise"), marginals(loc, own, gaps())
    weights = torch.tensor([0.3, 0.7]).double()
    mixture = MixtureSameFamily(Categorical(weights), build(OURS, torch.stack([loc, loc + 1]), own, missing="marginalise"))
    both = torch.stack([expected, marginals(loc + 1, own, x)], -1)
    close(mixture.log_prob(x), (both + weights.log()).logsumexp(-1))
    close(Independent(d.expand((5,)), 1).log_prob(x), expected.sum())
    for other in (copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        close(other.log_prob(x), expected)
    d.loc = loc + 1
    close(d.log_prob(x), both[:, 1])
    close(d.log_prob(x.to(torch.bfloat16)), marginals(loc + 1, own, x.to(torch.bfloat16).double()))


def test_support_where_entries_may_be_missing() -> None:
    """The operations that Pyro needs from a support: a check of values, and a transform."""
    d = OURS.MultivariateNormal(torch.zeros(3), torch.eye(3), missing="marginalise")
    assert d.support.event_dim == 1
    assert d.support.check(gaps()).tolist() == [True] * 5
    for registry in (biject_to, transform_to):
        assert torch.equal(registry(d.support)(normal(4)), normal(4))


def test_missing_keyword_is_checked() -> None:
    with pytest.raises(MvnjacError, match="missing is 'drop'"):
        OURS.MultivariateNormal(torch.zeros(3), torch.eye(3), missing="drop")


# Idioms ------------------------------------------------------------------------------------------------------------------------


def mixture(module: Any, t: dict[str, Tensor]) -> Tensor:
    """A mixture's negative log-likelihood, its mean and its variance."""
    means = torch.stack([t["loc"], t["loc"] + 1, 2 * t["loc"]])
    components = module.MultivariateNormal(means, scale_tril=t["root"].tril())
    p = MixtureSameFamily(Categorical(logits=t["loc"]), components)
    return -p.log_prob(normal(7)).mean() + p.mean.sum() + p.variance.prod()


def mixture_of_low_rank(module: Any, t: dict[str, Tensor]) -> Tensor:
    means = torch.stack([t["loc"], -t["loc"]])
    components = module.LowRankMultivariateNormal(means, t["root"][:, :1], t["loc"].exp())
    return MixtureSameFamily(Categorical(probs=torch.ones(2).double()), components).log_prob(normal(7)).sum()


def series(module: Any, t: dict[str, Tensor]) -> Tensor:
    """Steps of a random walk as one event."""
    steps = Independent(module.MultivariateNormal(t["loc"], scale_tril=t["root"].tril()).expand((4,)), 1)
    return steps.log_prob(normal(2, 4)).sum() + steps.entropy() + draw(steps).square().sum()


def log_normal(module: Any, t: dict[str, Tensor]) -> Tensor:
    base = module.MultivariateNormal(t["loc"], precision_matrix=t["root"] @ t["root"].mT)
    p = TransformedDistribution(base, [AffineTransform(0.5, 2.0), ExpTransform()])
    return p.log_prob(normal(4).exp()).sum() + draw(p).log().sum()


def evidence_bound(module: Any, t: dict[str, Tensor]) -> Tensor:
    """A variational posterior: expected likelihood by reparametrised draws, less the divergence from the prior."""
    posterior = module.MultivariateNormal(t["loc"], scale_tril=t["root"].tril())
    prior = module.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    likelihood = module.MultivariateNormal(draw(posterior), 2 * torch.eye(3).double())
    return likelihood.log_prob(normal()).mean() - kl_divergence(posterior, prior) - kl_divergence(prior, posterior)


def divergence_of_independents(module: Any, t: dict[str, Tensor]) -> Tensor:
    p = Independent(module.MultivariateNormal(t["loc"], scale_tril=t["root"].tril()).expand((4,)), 1)
    q = Independent(module.MultivariateNormal(normal(4), torch.eye(3).double()), 1)
    return kl_divergence(p, q)


def unconstrained(module: Any, t: dict[str, Tensor]) -> Tensor:
    """Parameters from unconstrained numbers, by the constraints that the class declares."""
    declared = module.MultivariateNormal.arg_constraints
    root = transform_to(declared["scale_tril"])(t["root"])
    sigma = transform_to(declared["covariance_matrix"])(t["root"])
    return sum(
        module.MultivariateNormal(t["loc"], **{name: value}).log_prob(normal(4)).sum()
        for name, value in (("scale_tril", root), ("covariance_matrix", sigma))
    )


def rebuilt(module: Any, t: dict[str, Tensor]) -> Tensor:
    """Moved to another dtype by building it anew from its attributes."""
    p = module.MultivariateNormal(t["loc"], t["root"] @ t["root"].mT)
    other = type(p)(p.loc.float(), scale_tril=p.scale_tril.float())
    return other.log_prob(normal(4).float()).sum().double()


def moving_mean(module: Any, t: dict[str, Tensor]) -> Tensor:
    """One distribution whose loc follows a recursion."""
    p, total = module.MultivariateNormal(torch.zeros(3).double(), scale_tril=t["root"].tril()), torch.zeros(()).double()
    for x in normal(5):
        total = total + p.log_prob(x)
        p.loc = 0.5 * p.loc + t["loc"] * x
    return total


IDIOMS = (
    *(mixture, mixture_of_low_rank, series, log_normal, evidence_bound, divergence_of_independents),
    *(unconstrained, rebuilt, moving_mean),
)


@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_idioms(idiom: Callable[[Any, dict[str, Tensor]], Tensor]) -> None:
    """Programs written for torch's classes: the same value, the same gradients, and the same way downhill for ten steps."""
    start = {"loc": 0.3 * normal(seed=5), "root": Maker(seed=1).lower(3)}
    ways = []
    for module in (TORCH, OURS):
        leaves = {name: t.clone().requires_grad_() for name, t in start.items()}
        value = idiom(module, leaves)
        gradients = torch.autograd.grad(value, list(leaves.values()))
        optimiser = torch.optim.Adam(leaves.values(), lr=1e-2)
        for _ in range(10):
            optimiser.zero_grad()
            idiom(module, leaves).backward()
            optimiser.step()
        ways.append((value.detach(), gradients, [t.detach() for t in leaves.values()]))
    tolerance = 1e-4 if idiom is rebuilt else 1e-9
    close(ways[1], ways[0], rtol=tolerance, atol=tolerance)


# What differs from torch's classes: the list in docs/explanation/comparison.md ---------------------------------------------------


def test_it_is_no_instance_of_torchs_class() -> None:
    d = OURS.MultivariateNormal(torch.zeros(3), torch.eye(3))
    assert isinstance(d, Distribution)
    assert not isinstance(d, TORCH.MultivariateNormal)
    assert not hasattr(d, "_unbroadcasted_scale_tril")


@pytest.mark.parametrize("form", ["covariance_matrix", "precision_matrix"])
def test_unvalidated_matrices_that_are_not_definite(form: str) -> None:
    """torch's factorisation raises an error; without validation, our results are NaN."""
    with pytest.raises(torch.linalg.LinAlgError):
        build(TORCH, torch.zeros(3), {form: -torch.eye(3)}, validate_args=False)
    d = build(OURS, torch.zeros(3), {form: -torch.eye(3)}, validate_args=False)
    assert d.log_prob(torch.zeros(3)).isnan()


def test_a_covariance_changed_in_place() -> None:
    """torch keeps the factor of the matrix as it was; here the density is that of the matrix as it is."""
    x = torch.ones(3)
    for module, scale in ((TORCH, 1.0), (OURS, 4.0)):
        sigma = torch.eye(3)
        d = module.MultivariateNormal(torch.zeros(3), sigma)
        sigma.mul_(4)
        close(d.log_prob(x), TORCH.MultivariateNormal(torch.zeros(3), scale * torch.eye(3)).log_prob(x))


@by_module
def test_a_matrix_that_is_repeated_for_a_batch_is_not_in_the_graph(module: Any) -> None:
    """One factor serves the batch: gradients are by the tensor that was given, as in torch; by loc, also by the attribute."""
    sigma, x = torch.eye(3).requires_grad_(), torch.ones(5, 3)
    for d in (
        module.MultivariateNormal(torch.zeros(5, 3), sigma),
        module.MultivariateNormal(torch.zeros(3), sigma).expand((5,)),
    ):
        with pytest.raises(RuntimeError, match="not have been used in the graph"):
            torch.autograd.grad(d.log_prob(x).sum(), d.covariance_matrix)
        assert torch.autograd.grad(d.log_prob(x).sum(), sigma)[0].shape == (3, 3)


def test_draws_under_autocast() -> None:
    """Of a bfloat16 loc torch's draws are bfloat16, ours float32 and, as the density, formed in float32."""
    root, loc = Maker(torch.float32).lower(3), torch.zeros(3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        assert TORCH.MultivariateNormal(loc, scale_tril=root).rsample((2,)).dtype == torch.bfloat16
        drawn = draw(OURS.MultivariateNormal(loc, scale_tril=root))
    close(drawn, draw(TORCH.MultivariateNormal(loc.float(), scale_tril=root)))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loc_kind", KINDS, ids=str)
@pytest.mark.parametrize("x_kind", KINDS, ids=str)
def test_dtypes_of_low_rank(x_kind: torch.dtype, loc_kind: torch.dtype, kind: torch.dtype) -> None:
    """torch's class of low rank takes no float64 value beside float32 factors, and none the other way; here the rule is one."""
    own = given("cov_factor", dtype=kind)
    x, loc = (10 * normal(4)).to(x_kind), (10 * normal(seed=5)).to(loc_kind)
    result = build(OURS, loc, own).log_prob(x)
    expected = build(TORCH, torch.zeros(3).double(), {name: t.double() for name, t in own.items()}).log_prob((x - loc).double())
    assert result.dtype == kind
    close(result.double(), expected, rtol=1e-4 if torch.float32 in (kind, loc_kind, x_kind) else 1e-3, atol=1e-4)


def test_a_loc_with_a_smaller_batch() -> None:
    """The result keeps the distribution's batch; torch's has the batch of what is left."""
    for module, shape in ((TORCH, ()), (OURS, (4,))):
        d = module.MultivariateNormal(torch.zeros(4, 3), torch.eye(3))
        d.loc = torch.zeros(3)
        assert d.log_prob(torch.zeros(3)).shape == shape
        assert d.batch_shape == (4,)


def test_gradients_of_draws_by_a_triangle() -> None:
    """torch's have entries above the diagonal, so that a step along them leaves the triangle; ours have not."""
    for module, lower in ((TORCH, False), (OURS, True)):
        root = torch.eye(3).double().requires_grad_()
        gradient = torch.autograd.grad(draw(module.MultivariateNormal(torch.zeros(3).double(), scale_tril=root)).sum(), root)[0]
        assert torch.equal(gradient, gradient.tril()) == lower


def test_tangents_by_a_symmetric_matrix() -> None:
    """A change of one entry above the diagonal: torch reads the lower triangle alone, ours the symmetric part."""
    change = torch.zeros(3, 3).double()
    change[0, 1] = 1.0
    for module, expected in ((TORCH, 0.0), (OURS, 0.5)):

        def density(sigma: Tensor, module: Any = module) -> Tensor:
            return module.MultivariateNormal(torch.zeros(3).double(), sigma, validate_args=False).log_prob(
                torch.ones(3).double()
            )

        tangent = torch.func.jvp(density, (torch.eye(3).double(),), (change,))[1]
        close(tangent, torch.tensor(expected).double())
