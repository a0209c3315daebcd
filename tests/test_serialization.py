"""Copies, pickles and torch.save files of the library's objects give the same numbers, in this process and in another."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import get_context
from torch.optim.swa_utils import AveragedModel

import mvnjac
from mvnjac import distributions
from mvnjac.covariance import structures
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.samples import Maker
from mvnjac.errors import ArgumentError
from mvnjac.sklearn import GaussianModel

D = 6


def saved(thing: Any, weights_only: bool = False) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": saved,
}
by_way = pytest.mark.parametrize("way", WAYS)


def rows(n: int = 20, seed: int = 3) -> Tensor:
    """Changes tensors in place before they are used, because the version counter of a copied tensor starts at zero."""
    return Maker(batch=(n,), seed=seed).normal(D).mul_(1.5)


def gaps() -> Tensor:
    x = rows()
    x[0, 0] = x[3, 2] = x[5] = torch.nan
    return x


def same(actual: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            same(actual[key], expected[key])
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)  # the unused ends of bands are NaN
    else:
        assert actual == expected


def covariances() -> Iterator[tuple[str, Covariance]]:
    for name, structure in structures().items():
        for i, sample in enumerate(structure.samples(D, Maker())):
            yield f"{name} {i}", sample


SAMPLES = dict(covariances())


def importable(theta: dict[str, Tensor]) -> Tensor:
    return theta["variance"] * torch.eye(D, dtype=torch.float64)


SAMPLES["Parametric of a module's function"] = mvnjac.Parametric(importable, {"variance": torch.tensor(2.0).double()})


def mean_of(covariance: Covariance) -> Tensor | None:
    return None if covariance.mean is not None else Maker(seed=5).normal(D)


def local(sample: str) -> bool:
    """Whether the sample contains a nested function, which cannot be pickled."""
    return sample.startswith("Parametric") and not sample.endswith("function")


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_structures_and_what_is_made_of_them(sample: str, way: str) -> None:
    """A covariance and its Gaussian, Jacobian, Hessian and information, before and after use."""
    covariance, duplicate, x = SAMPLES[sample], WAYS[way], rows()
    gaussian = mvnjac.Gaussian(mean_of(covariance), covariance)
    things = {
        "structure": (covariance, lambda c: {**c.parameters, "Σ": c.dense(D), "log_prob": mvnjac.log_prob(x, mean_of(c), c)}),
        "Gaussian": (gaussian, lambda g: {"p": g.log_prob(x), **g.jacobian(x).sum(), "names": g.names}),
        "Jacobian": (gaussian.jacobian(x), lambda J: {"J": J.matrix(), "G": J.gram(), "p": J.log_prob, **J.sum()}),
        "Hessian": (gaussian.hessian(x), lambda H: {"H": H.matrix(), "columns": H.columns(), "v": H.matvec(H.matrix()[0])}),
        "information": (gaussian.fisher_information(), lambda F: {"F": F.matrix(), "v": F.matvec(F.matrix()[0])}),
    }
    for name, (thing, numbers) in things.items():
        if local(sample) and way == "pickle":
            with pytest.raises((AttributeError, pickle.PicklingError), match=r"kernel|local|lambda"):
                duplicate(thing)
            continue
        fresh = duplicate(thing)
        expected = numbers(thing)
        assert type(fresh) is type(thing), name
        same(numbers(fresh), expected)
        same(numbers(duplicate(thing)), expected)


EVERYDAY: dict[str, Callable[[], tuple[Any, Callable[[Any], Any]]]] = {}


def case(function: Callable[[], tuple[Any, Callable[[Any], Any]]]) -> Callable[[], tuple[Any, Callable[[Any], Any]]]:
    EVERYDAY[function.__name__] = function
    return function


def sigma() -> Tensor:
    return Maker(seed=7).definite(D)


@case
def jacobian_of_plain_tensors() -> tuple[Any, Callable[[Any], Any]]:
    return mvnjac.jacobian(rows(), Maker().normal(D), sigma()), lambda J: {
        "J": J.matrix(),
        "G": J.gram(),
        **J.sum(),
        "p": J.log_prob,
    }


@case
def jacobian_of_many_gaussians() -> tuple[Any, Callable[[Any], Any]]:
    J = mvnjac.jacobian(rows(), rows(seed=4), sigma().expand(20, D, D).contiguous())
    return J, lambda J: {"J": J.matrix(), **J.sum(), "p": J.log_prob}


@case
def jacobian_with_missing_entries() -> tuple[Any, Callable[[Any], Any]]:
    J = mvnjac.jacobian(gaps(), Maker().normal(D), sigma(), missing="marginalise", names=list("abcdef"))
    return J, lambda J: {"J": J.matrix(), "G": J.gram(), **J.sum(), "p": J.log_prob, "columns": J.columns()}


@case
def hessian_with_missing_entries() -> tuple[Any, Callable[[Any], Any]]:
    H = mvnjac.hessian(gaps(), Maker().normal(D), sigma(), missing="marginalise")
    return H, lambda H: {"H": H.matrix(), "diagonal": H.inverse_diagonal()}


@case
def hessian_of_each_row() -> tuple[Any, Callable[[Any], Any]]:
    return mvnjac.hessian(rows(), Maker().normal(D), sigma(), reduce=False), lambda H: H.matrix()


@case
def information_of_observed_entries() -> tuple[Any, Callable[[Any], Any]]:
    F = mvnjac.fisher_information(Maker().normal(D), sigma(), observed=~gaps().isnan())
    return F, lambda F: {"F": F.matrix(), "diagonal": F.inverse_diagonal()}


@case
def information_by_other_parameters() -> tuple[Any, Callable[[Any], Any]]:
    F = mvnjac.fisher_information(Maker().normal(D), sigma(), wrt=("mean", "precision_matrix"))
    return F, lambda F: {"F": F.matrix(), "inverse": F.inverse()}


@case
def natural_gradient() -> tuple[Any, Callable[[Any], Any]]:
    return mvnjac.natural_gradient(rows(), Maker().normal(D), sigma()), lambda step: step


def fitted(fit: mvnjac.Fit) -> Any:
    x = rows()
    return {
        "mean": fit.mean,
        "p": fit.gaussian.log_prob(x),
        "log_likelihood": fit.log_likelihood,
        "text": repr(fit),
        "converged": fit.converged,
        **fit.covariance.parameters,
    }


@case
def fit_dense() -> tuple[Any, Callable[[Any], Any]]:
    return mvnjac.fit(rows(), names=list("abcdef")), fitted


@case
def fit_low_rank() -> tuple[Any, Callable[[Any], Any]]:
    return mvnjac.fit(rows(200) + rows(200, seed=8)[:, :1], "low-rank:1"), fitted


@case
def fit_missing() -> tuple[Any, Callable[[Any], Any]]:
    return mvnjac.fit(gaps(), missing="marginalise"), fitted


@case
def multivariate_normal() -> tuple[Any, Callable[[Any], Any]]:
    d = distributions.MultivariateNormal(Maker().normal(D), precision_matrix=sigma(), missing="marginalise")
    return d, lambda d: {"p": d.log_prob(gaps()), "Σ": d.covariance_matrix, "H": d.entropy(), "given": d.precision_matrix}


@case
def low_rank_multivariate_normal() -> tuple[Any, Callable[[Any], Any]]:
    make = Maker(batch=(4,))
    d = distributions.LowRankMultivariateNormal(Maker().normal(D), make.normal(D, 2), make.positive(D))
    return d, lambda d: {"p": d.log_prob(rows(4)), "Σ": d.covariance_matrix, "W": d.cov_factor}


@pytest.mark.parametrize("what", EVERYDAY)
@by_way
def test_results(what: str, way: str) -> None:
    """Objects that use kernels or have missing entries, fits, and distributions, before and after use."""
    thing, numbers = EVERYDAY[what]()
    fresh = WAYS[way](thing)
    expected = numbers(thing)
    same(numbers(fresh), expected)
    same(numbers(WAYS[way](thing)), expected)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_is_independent(way: str) -> None:
    """Later in-place changes of the original do not affect the copy, which follows its own tensors."""
    x, mean, S = rows(), Maker().normal(D), sigma()
    gaussian, d = mvnjac.Gaussian(mean, S), distributions.MultivariateNormal(mean, S)
    J, before = mvnjac.jacobian(x, mean, S), mvnjac.jacobian(x, mean, S).matrix()
    copies = [WAYS[way](thing) for thing in (gaussian, d, J)]
    S.mul_(2)
    x.add_(1)
    same(copies[2].matrix(), before)
    for thing in copies[:2]:
        torch.testing.assert_close(thing.log_prob(rows()), mvnjac.log_prob(rows(), mean, sigma()), rtol=1e-13, atol=1e-13)
    copies[0].covariance.parameters["covariance_matrix"].mul_(2)
    torch.testing.assert_close(copies[0].log_prob(rows()), mvnjac.log_prob(rows(), mean, 2 * sigma()))


@pytest.mark.parametrize("way", ["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("plain", [True, False])
def test_what_was_changed_in_place_stays_refused(way: str, plain: bool) -> None:
    """A copy of a Jacobian whose rows were changed in place raises the same error."""
    x = rows()
    J = mvnjac.jacobian(x, Maker().normal(D), sigma() if plain else mvnjac.Precision(sigma()))
    x.add_(1)
    with pytest.raises(ArgumentError, match="x was changed in place"):
        WAYS[way](J).matrix()


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_function_of_changed_parameters(way: str) -> None:
    """A copy of a Parametric whose θ was changed in place before uses the new θ."""
    size = torch.tensor(2.0).double()
    parametric = mvnjac.Parametric(importable, {"variance": size})
    _ = parametric.dimension
    size.mul_(3)
    same(WAYS[way](parametric).dense(), 6 * torch.eye(D).double())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("structure", ["isotropic", "compound-symmetric", "autoregressive:1", "toeplitz", "kronecker:2x3"])
def test_fits_of_structures(structure: str, way: str) -> None:
    fit = mvnjac.fit(rows(50), structure)
    same(fitted(WAYS[way](fit)), fitted(fit))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_estimator(way: str) -> None:
    """A loaded scikit-learn estimator can be updated with further rows."""
    first, second = rows().numpy(), rows(seed=9).numpy()
    loaded = WAYS[way](GaussianModel().partial_fit(first))
    same(
        torch.from_numpy(loaded.partial_fit(second).mean_),
        torch.from_numpy(GaussianModel().partial_fit(first).partial_fit(second).mean_),
    )
    same(
        torch.from_numpy(WAYS[way](GaussianModel().fit(first)).score_samples(second)),
        torch.from_numpy(GaussianModel().fit(first).score_samples(second)),
    )


class Density(torch.nn.Module):
    """A module with a Gaussian, a distribution, and parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.root = torch.nn.Parameter(torch.zeros(D).double()), torch.nn.Parameter(torch.eye(D).double())
        self.prior = distributions.MultivariateNormal(torch.zeros(D).double(), sigma())
        self.noise = mvnjac.Gaussian(torch.zeros(D).double(), sigma())
        self.own = mvnjac.Gaussian(self.mean, mvnjac.Cholesky(self.root))

    def forward(self, x: Tensor) -> Tensor:
        return self.own.log_prob(x) + self.prior.log_prob(x) + self.noise.log_prob(x)


def test_averaged_model() -> None:
    """torch's AveragedModel copies the module: the Gaussian of the copy follows the copy's parameters."""
    module, x = Density(), rows()
    module(x).sum().backward()
    averaged = AveragedModel(module)
    averaged.update_parameters(module)  # the first update copies the parameters
    same(averaged(x), module(x))
    with torch.no_grad():
        module.mean.add_(1)
    averaged.update_parameters(module)
    same(averaged.module.mean, torch.full((D,), 0.5).double())
    expected = Density()
    expected.mean.data.fill_(0.5)
    torch.testing.assert_close(averaged(x), expected(x))
    assert not torch.equal(averaged(x), module(x))


def test_deepcopy_with_graphs() -> None:
    """As in torch: leaves that require gradients can be copied, tensors computed from them cannot; pickles do not contain the graph."""
    mean, x = Maker().normal(D).requires_grad_(), rows()
    for gaussian in (mvnjac.Gaussian(mean, sigma()), mvnjac.Gaussian(mean, mvnjac.Precision(sigma()))):
        gaussian.log_prob(x).sum().backward()
        other = copy.deepcopy(gaussian)
        assert torch.autograd.grad(other.log_prob(x).sum(), other.mean)[0].shape == (D,)
    computed = mvnjac.Gaussian(2 * mean, sigma())
    for thing in (
        computed,
        distributions.MultivariateNormal(mean, sigma()),
        torch.distributions.MultivariateNormal(mean, sigma()),
    ):
        with pytest.raises(RuntimeError, match="deepcopy protocol"):
            copy.deepcopy(thing)
        loaded = pickle.loads(pickle.dumps(thing))
        same(loaded.log_prob(x).detach(), thing.log_prob(x).detach())


def test_weights_only() -> None:
    """torch.load refuses unknown classes by default, but reads tensors, state dicts, and files of `Fit.save`."""
    with pytest.raises(pickle.UnpicklingError, match="Gaussian"):
        saved(mvnjac.Gaussian(torch.zeros(2), torch.eye(2)), weights_only=True)
    step = mvnjac.natural_gradient(rows(), torch.zeros(D).double(), sigma())
    same(saved(step, weights_only=True), step)
    with torch.serialization.safe_globals([mvnjac.Dense]):
        same(saved(mvnjac.Dense(sigma()), weights_only=True).parameters["covariance_matrix"], sigma())


def _elsewhere(sent: Any, back: Any) -> None:
    *things, x = sent
    back.put([thing.log_prob(x).tolist() for thing in things])


def test_in_a_spawned_process() -> None:
    x, mean = rows(), torch.zeros(D).double()
    things = [mvnjac.Gaussian(mean, sigma()), distributions.MultivariateNormal(mean, sigma())]
    context = get_context("spawn")
    back = context.SimpleQueue()
    process = context.Process(target=_elsewhere, args=((*things, x), back))
    process.start()
    results = back.get()
    process.join()
    for thing, result in zip(things, results, strict=True):
        torch.testing.assert_close(torch.tensor(result, dtype=torch.float64), thing.log_prob(x), rtol=1e-13, atol=1e-13)
