"""Calls of all public functions and methods, for tests that compare results in different environments.

`Case` is one set of inputs. `CALLS` maps each public function to its results for a case; if a result is an object, all its public
attributes and methods are included (`everything`). Methods with arguments are listed in `ARGUMENTS`; a method that is not listed
raises an error.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

import mvnjac
from mvnjac import distributed, distributions, inference
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from mvnjac.errors import MvnjacError
from mvnjac.sklearn import GaussianModel

D = 3
STRUCTURES = structures()
#: structures for which `fit` has starting values, with options for `D` variables
FITTED = {
    "dense",
    "diagonal",
    "isotropic",
    "low-rank:1",
    "toeplitz",
    "compound-symmetric",
    "banded-precision:1",
    "ar:1",
    "ar:2",
}
FITTED |= {"cholesky", "log-cholesky", "precision", "precision-cholesky", "inverse-cholesky", "scale-correlation"}


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows, a mean, a covariance and weights."""

    x: Tensor
    mean: Tensor | None
    covariance: mvnjac.Covariance | Tensor
    weights: Tensor
    missing: str | None = None
    names: list[str] | None = None

    @property
    def batch(self) -> torch.Size:
        """The leading dimensions of the covariance."""
        return self.covariance.shape[:-2] if isinstance(self.covariance, Tensor) else self.covariance.batch

    def keywords(self) -> dict[str, Any]:
        return {"missing": self.missing, "names": self.names}

    def jacobian(self) -> mvnjac.Jacobian:
        return mvnjac.jacobian(self.x, self.mean, self.covariance, **self.keywords())

    def gaussian(self) -> mvnjac.Gaussian:
        return mvnjac.Gaussian(self.mean, self.covariance, **self.keywords())


@functools.cache
def cases(structure: str, dtype: torch.dtype, missing: bool) -> list[Case]:
    """One case for each sample of a structure; for "plain", Σ is a tensor, the same for all rows or one per row."""
    make = Maker(dtype, seed=5)
    if structure == "plain":
        covariances: list[Any] = [make.definite(D), Maker(dtype, (6,), seed=6).definite(D)]
    else:
        covariances = list(STRUCTURES[structure].samples(D, make))
    found = []
    for given in covariances:
        x = Maker(dtype, (6,), seed=7).normal(D)
        if missing:
            x[0, 1] = x[2] = x[3, 0] = x[3, 2] = torch.nan
        weights = Maker(dtype, (6,), seed=9).positive()
        case = Case(x, None, given, weights, "marginalise" if missing else None, ["a", "b", "c"])
        found.append(dataclasses.replace(case, mean=Maker(dtype, case.batch, seed=8).normal(D)))
    return found


@functools.cache
def table(dtype: torch.dtype, missing: bool) -> Case:
    """Rows for a fit and for inference."""
    make = Maker(dtype, seed=11)
    x = (
        make.normal(80, 1) * torch.tensor([1.0, -0.8, 1.2], dtype=dtype)
        + make.normal(80, D) * make.positive(D)
        + make.normal(D)
    )
    if missing:
        x[::7, 0], x[3::9, 2] = torch.nan, torch.nan
    return Case(x, None, make.definite(D), make.positive(80), "marginalise" if missing else None, ["a", "b", "c"])


# --- objects ------------------------------------------------------------------------------------------------------------


def _ones(obj: Any, count: int) -> Tensor:
    return torch.ones(count, dtype=obj.dtype, device=obj.device)


def _operator_arguments(obj: Any) -> dict[str, list[tuple]]:
    v = _ones(obj, obj.shape[-1])
    return {"matvec": [(v,)], "solve": [(v,)]}


def _jacobian_arguments(obj: mvnjac.Jacobian) -> dict[str, list[tuple]]:
    p = len(obj.columns())
    w = 0.5 + torch.arange(obj.batch[0], dtype=obj.dtype, device="cpu")
    return {
        "unique": [("mean",), ("covariance_matrix",), ("precision_tril",)],
        "matvec": [(_ones(obj, p),)],
        "rmatvec": [(w,), (w, "mean")],
        "sum": [(), (w,), (None, ["x", "mean"])],
        "gram": [(), (w,), (None, "mean")],
        "matrix": [(), ("mean",), (None, "full")],
        "columns": [(), ("mean",), (None, "full")],
        "selection": [(None,)],
        "__getitem__": [("x",), ("mean",), ("covariance_matrix",), ("precision_tril",)],
    }


def _rows_arguments(obj: Any) -> dict[str, list[tuple]]:
    case = _made_from[id(obj)]
    return {name: [(case.x,)] for name in ("jacobian", "log_prob", "hessian", "natural_gradient")} | {"parameter": [("mean",)]}


def _distribution_arguments(obj: Any) -> dict[str, list[tuple]]:
    zero = torch.zeros(obj.event_shape, dtype=obj.mean.dtype, device="cpu")
    return {"log_prob": [(zero,)], "expand": [((2, *obj.batch_shape),)], "rsample": [((2,),)]}


def _estimates_arguments(obj: inference.Estimates) -> dict[str, list[tuple]]:
    return {"standard_error": [(obj.columns[0],)], "interval": [(), (0.9,)]}


def _process_arguments(obj: inference.ScoreProcess) -> dict[str, list[tuple]]:
    return {"select": [(obj.columns[0],)], "critical_value": [(), (0.1, "double_max")], "by_column": [(), ("nyblom_hansen",)]}


def _observations_arguments(obj: mvnjac.Observations) -> dict[str, list[tuple]]:
    return {name: [(obj.x, obj.names)] for name in ("table", "to_xarray")}


def _fit_arguments(obj: mvnjac.Fit) -> dict[str, list[tuple]]:
    return {"save": [(_scratch() / "model",)], "shaped": [(torch.Size([D]),)], "likelihood_ratio_test": [(obj,)]}


def _model_arguments(obj: GaussianModel) -> dict[str, list[tuple]]:
    X = _made_from[id(obj)].x.numpy().astype(np.float64)
    takes_rows = ("fit", "partial_fit", "score", "score_samples", "transform")
    return {name: [(X,)] for name in takes_rows} | {"sample": [(2, 0)], "get_feature_names_out": [()]}


#: the arguments of methods, by class
ARGUMENTS: dict[type, Callable[[Any], dict[str, list[tuple]]]] = {
    mvnjac.Jacobian: _jacobian_arguments,
    mvnjac.Gaussian: _rows_arguments,
    mvnjac.Fit: _fit_arguments,
    mvnjac.Observations: _observations_arguments,
    type(mvnjac.fisher_information(torch.zeros(1), torch.eye(1))): _operator_arguments,
    type(mvnjac.hessian(torch.ones(1, 1), torch.zeros(1), torch.eye(1))): _operator_arguments,
    inference.Estimates: _estimates_arguments,
    inference.ScoreProcess: _process_arguments,
    inference.ScoreTest: lambda obj: {},
    inference.LikelihoodRatioTest: lambda obj: {},
    inference.InformationMatrixTest: lambda obj: {},
    inference.BreakTest: lambda obj: {},
    inference.Influence: lambda obj: {"top": [(2,)]},
    distributions.MultivariateNormal: _distribution_arguments,
    distributions.LowRankMultivariateNormal: _distribution_arguments,
    distributed.Total: lambda obj: {},
    GaussianModel: _model_arguments,
}
#: methods for scikit-learn, or inherited from it
_NOT_CALLED = {"set_fit_request", "set_partial_fit_request", "set_score_request", "set_output"}
_made_from: dict[int, Case] = {}
_SCRATCH: list[Any] = []


def _scratch() -> Path:
    _SCRATCH.append(tempfile.TemporaryDirectory())
    return Path(_SCRATCH[-1].name)


def _own(cls: type) -> Iterator[tuple[str, Any]]:
    """The public attributes and methods that this package defines."""
    for name in dir(cls):
        home = next(c for c in cls.__mro__ if name in vars(c))
        if home.__module__.startswith("mvnjac") and name not in _NOT_CALLED and (not name.startswith("_")):
            yield name, vars(home)[name]


def everything(obj: Any) -> dict[str, Any]:
    """The results of all public attributes and methods of an object."""
    arguments = ARGUMENTS[type(obj)](obj)
    results: dict[str, Any] = {}
    if dataclasses.is_dataclass(obj):
        results |= {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj) if not f.name.startswith("_")}
    for name, static in [*_own(type(obj)), *((name, vars(type(obj))[name]) for name in arguments if name.startswith("__"))]:
        if inspect.isfunction(static):
            if name not in arguments:
                _require_no_arguments(type(obj), name)
            for given in arguments.get(name, [()]):
                results[f"{name}{len(results)}"] = attempt(functools.partial(getattr(obj, name), *given))
        else:
            results[name] = attempt(functools.partial(getattr, obj, name))
    return results


def _require_no_arguments(cls: type, name: str) -> None:
    needed = [p for p in inspect.signature(getattr(cls, name)).parameters.values() if p.default is p.empty][1:]
    needed = [p for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    assert not needed, f"{cls.__name__}.{name} takes {[p.name for p in needed]}: say in ARGUMENTS what to call it with"


def attempt(call: Callable[[], Any]) -> Any:
    """The result, or the error."""
    torch.manual_seed(0)
    try:
        return call()
    except MvnjacError as error:
        return type(error), str(error)


# --- functions ----------------------------------------------------------------------------------------------------------


def _remember(obj: Any, case: Case) -> Any:
    _made_from[id(obj)] = case
    return obj


def _gradients(density: Callable[..., Tensor], case: Case) -> list[Tensor]:
    """Value, gradients, and one product with the Hessian."""
    given = [case.x, *([] if case.mean is None else [case.mean])]
    leaves = [t.clone().requires_grad_() for t in given]
    value = density(leaves[0], leaves[1] if len(leaves) > 1 else None, case.covariance)
    first = torch.autograd.grad(value.sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), leaves, allow_unused=True)
    return [value.detach(), *(g.detach() for g in first), *(g for g in second if g is not None)]


def _log_prob(case: Case) -> Any:
    density = functools.partial(mvnjac.log_prob, missing=case.missing)
    return {"value": density(case.x, case.mean, case.covariance), "gradients": _gradients(density, case)}


def _hessian(case: Case) -> Any:
    make = functools.partial(mvnjac.hessian, case.x, case.mean, case.covariance, **case.keywords())
    rows = attempt(functools.partial(make, reduce=False))
    return {
        "sum": everything(make()),
        "weighted": make(weights=case.weights).matrix(),
        "rows": rows if isinstance(rows, tuple) else rows.matrix(),
        "by the mean": make(wrt="mean").matrix(),
    }


def _fisher(case: Case) -> Any:
    make = functools.partial(mvnjac.fisher_information, case.mean, case.covariance, names=case.names)
    found = {"": everything(make())}
    if case.missing:
        found["observed"] = attempt(lambda: make(observed=~case.x.isnan()).matrix())
    return found


def _natural_gradient(case: Case) -> Any:
    make = functools.partial(mvnjac.natural_gradient, case.x, case.mean, case.covariance, missing=case.missing)
    return {"": attempt(make), "weighted": attempt(lambda: make(weights=case.weights))}


def _gaussian(case: Case) -> Any:
    """The numbers of a distribution; its objects are examined where the functions create them."""
    results = everything(_remember(case.gaussian(), case))
    objects = (mvnjac.Jacobian, *list(ARGUMENTS)[4:6])
    return {name: value.matrix() if isinstance(value, objects) else value for name, value in results.items()}


def _jacobian(case: Case) -> Any:
    J = case.jacobian()
    return {"": everything(J), "rows": J[1:4].matrix(), "some": J[[0, 4]].sum(), "mask": J[~case.x.isnan().any(-1)].matrix()}


def _total(case: Case) -> Any:
    total = distributed.total(case.x, case.mean, case.covariance, missing=case.missing)
    results = everything(total)
    return {name: value.matrix() if hasattr(value, "matrix") else value for name, value in results.items()}


def _distributed_log_prob(case: Case) -> Any:
    mean = case.mean.clone().requires_grad_()
    value = distributed.log_prob(case.x, mean, case.covariance, missing=case.missing)
    value.backward()
    return value.detach(), mean.grad


def _multivariate_normal(case: Case) -> Any:
    return everything(distributions.MultivariateNormal(case.mean, covariance_matrix=case.covariance))


def _low_rank_multivariate_normal(case: Case) -> Any:
    W, v = case.covariance[..., :1].clone(), case.covariance.diagonal(dim1=-2, dim2=-1).clone()
    return everything(distributions.LowRankMultivariateNormal(case.mean, W, v))


def _vech(case: Case) -> Any:
    return mvnjac.vech(case.covariance)


#: calls for cases with one density for all rows
SHARED: dict[str, Callable[[Case], Any]] = {
    "distributed.total": _total,
    "distributed.log_prob": _distributed_log_prob,
}
#: calls for all cases
DENSITIES: dict[str, Callable[[Case], Any]] = {
    "jacobian": _jacobian,
    "log_prob": _log_prob,
    "hessian": _hessian,
    "fisher_information": _fisher,
    "natural_gradient": _natural_gradient,
    "Gaussian": _gaussian,
}
#: calls for cases whose covariance is a tensor
PLAIN: dict[str, Callable[[Case], Any]] = {
    "distributions.MultivariateNormal": _multivariate_normal,
    "distributions.LowRankMultivariateNormal": _low_rank_multivariate_normal,
    "vech": _vech,
    "unvech": lambda case: mvnjac.unvech(_vech(case)),
}


def _fit(case: Case, structure: str = "dense") -> Any:
    make = functools.partial(mvnjac.fit, case.x, structure, **case.keywords())
    found = attempt(make)
    if not isinstance(found, mvnjac.Fit):
        return found
    return {"": everything(found), "weighted": attempt(lambda: make(weights=case.weights).mean)}


def _load(case: Case) -> Any:
    path = _scratch() / "model"
    mvnjac.fit(case.x, **case.keywords()).save(path)
    return mvnjac.load(path).jacobian(case.x.double()).matrix()


def _from_table(case: Case) -> Any:
    frame = pd.DataFrame(case.x.double().numpy(), columns=case.names)
    return [everything(mvnjac.from_table(given)) for given in (frame, pa.Table.from_pandas(frame, preserve_index=False))]


def _read_table(case: Case) -> Any:
    path = _scratch() / "x.csv"
    pd.DataFrame(case.x.double().numpy(), columns=case.names).to_csv(path, index=False)
    return everything(mvnjac.read_table(path))


def _plot_correlation(case: Case) -> Any:
    fit = mvnjac.fit(case.x, **case.keywords())
    axes = mvnjac.plot_correlation(fit, Figure().add_subplot())
    drawn = [each.get_array() for each in (*axes.images, *axes.collections) if each.get_array() is not None]
    return [np.ma.filled(array.astype(float), -2.0) for array in drawn], fit.mean


def _write_report(case: Case) -> Any:
    path = Path(tempfile.mkdtemp()) / "report.html"
    mvnjac.write_report(mvnjac.fit(case.x, **case.keywords()), case.x.double(), path)
    return torch.tensor(float(path.stat().st_size > 1000), dtype=torch.float64, device="cpu")


def _at_the_fit(case: Case) -> mvnjac.Jacobian:
    return mvnjac.fit(case.x, **case.keywords()).gaussian.jacobian(case.x.double())


def _estimates(case: Case) -> Any:
    J = _at_the_fit(case)
    labels = [i // 4 for i in range(len(case.x))]
    options: dict[str, dict[str, Any]] = {
        "sandwich": {},
        "expected": {"kind": "expected"},
        "observed": {"kind": "observed"},
        "opg": {"kind": "opg"},
        "hac": {"kind": "hac", "lag": 2},
        "clusters": {"clusters": labels},
        "two clusters": {"clusters": [labels, labels[::-1]]},
        "known": {"known": "mean"},
    }
    made = {name: attempt(functools.partial(inference.covariance_of_estimates, J, **given)) for name, given in options.items()}
    return {name: everything(value) if isinstance(value, inference.Estimates) else value for name, value in made.items()}


def _scores_covariance(case: Case) -> Any:
    J = _at_the_fit(case)
    backwards = range(len(case.x), 0, -1)
    return [inference.scores_covariance(J, **given) for given in ({}, {"lag": 3, "prewhite": 0}, {"order_by": backwards})]


def _delta_method(case: Case) -> Any:
    estimates = inference.covariance_of_estimates(_at_the_fit(case))
    return everything(inference.delta_method(estimates, lambda p: p["mean"].sum() / p["covariance_matrix"].trace().sqrt()))


def _influence(case: Case) -> Any:
    return everything(inference.influence(_at_the_fit(case)))


def _information_matrix_test(case: Case) -> Any:
    J = _at_the_fit(case)
    return [everything(inference.information_matrix_test(J, wrt="mean", elements=which)) for which in ("all", "diagonal")]


def _score_test(case: Case) -> Any:
    independent = mvnjac.fit(case.x, "diagonal", **case.keywords()).gaussian.jacobian(case.x.double())
    alike = mvnjac.fit(case.x, "isotropic", **case.keywords()).gaussian.jacobian(case.x.double())
    variances = [f"covariance_matrix[{name},{name}]" for name in case.names]
    pairs = ["covariance_matrix[b,a]", "covariance_matrix[c,a]", "covariance_matrix[c,b]"]
    return [
        everything(inference.score_test(independent)),
        everything(inference.score_test(independent, robust=True, information="opg")),
        everything(
            inference.score_test(independent, zero=pairs, lift=[f"{pairs[0]} = 0"], weights=torch.ones_like(case.weights))
        ),
        everything(inference.score_test(alike, zero=pairs, equal=[variances])),
    ]


def _likelihood_ratio_test(case: Case) -> Any:
    small, large = (mvnjac.fit(case.x, structure, **case.keywords()) for structure in ("diagonal", "dense"))
    return everything(inference.likelihood_ratio_test(small, large))


def _score_process(case: Case) -> Any:
    J = _at_the_fit(case)
    serial = {"lag": None} if bool(case.x.isnan().any()) else {"scores_covariance": inference.scores_covariance(J)}
    return [everything(inference.score_process(J, **given)) for given in ({}, serial, {"wrt": "mean"})]


def _sklearn(case: Case) -> Any:
    X, weights = case.x.double().numpy(), case.weights.double().numpy()
    models = [GaussianModel(missing=case.missing).fit(X), GaussianModel("diagonal", missing=case.missing).fit(X, None, weights)]
    results = [everything(_remember(model, case)) for model in models]
    return [{k: v for k, v in found.items() if not isinstance(v, GaussianModel)} for found in results], models[0].fit_.mean


#: calls for a table of observations
ON_TABLES: dict[str, Callable[[Case], Any]] = {
    "fit": _fit,
    "load": _load,
    "from_table": _from_table,
    "read_table": _read_table,
    "plot_correlation": _plot_correlation,
    "write_report": _write_report,
    "inference.covariance_of_estimates": _estimates,
    "inference.scores_covariance": _scores_covariance,
    "inference.delta_method": _delta_method,
    "inference.influence": _influence,
    "inference.information_matrix_test": _information_matrix_test,
    "inference.score_test": _score_test,
    "inference.score_process": _score_process,
    "inference.likelihood_ratio_test": _likelihood_ratio_test,
    "sklearn.GaussianModel": _sklearn,
    **{f"fit, {structure}": functools.partial(_fit, structure=structure) for structure in sorted(FITTED)},
}
CALLS = SHARED | DENSITIES | PLAIN | ON_TABLES


# --- comparison ---------------------------------------------------------------------------------------------------------


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """All numbers and texts of a result with their paths; arrays as bytes."""
    if isinstance(value, Tensor):
        yield at, (value.dtype, value.device.type, tuple(value.shape), "" if value.is_meta else _bits(value.detach().numpy()))
    elif isinstance(value, np.ndarray):
        yield at, (value.dtype, value.shape, value.tolist() if value.dtype == object else _bits(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{at}[{key}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{at}[{i}]")
    elif isinstance(value, pd.DataFrame | pd.Series):
        yield from leaves(
            {"values": value.to_numpy(), "index": list(value.index), "columns": list(getattr(value, "columns", []))}, at
        )
    elif isinstance(value, pa.Table):
        yield from leaves(value.to_pydict(), at)
    elif isinstance(value, xr.DataArray):
        yield from leaves({"values": value.values, **{name: list(c.values) for name, c in value.coords.items()}}, at)
    elif (
        hasattr(value, "matvec")
        and hasattr(value, "rmatvec")
        and hasattr(value, "shape")
        and not isinstance(value, mvnjac.Jacobian)
    ):
        yield from leaves(value @ np.ones(value.shape[1], value.dtype), f"{at} @ 1")
    elif isinstance(value, mvnjac.Covariance):
        yield from leaves(dict(value.parameters), f"{at}.parameters")
    elif type(value) in ARGUMENTS and dataclasses.is_dataclass(value):
        yield from leaves({f.name: getattr(value, f.name) for f in dataclasses.fields(value) if not f.name.startswith("_")}, at)
    elif type(value) is mvnjac.Gaussian:
        yield from leaves([value.mean, value.covariance], at)
    elif isinstance(value, torch.distributions.Distribution):
        yield from leaves([value.mean, value.covariance_matrix], at)
    elif isinstance(value, float | np.floating):
        yield at, repr(float(value))
    else:
        assert (
            value is None or isinstance(value, (str, bool, int, torch.dtype, torch.device, type, np.integer, np.bool_)) or at
        ), value
        yield at, re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # without memory addresses


def _bits(array: np.ndarray) -> bytes:
    """The bytes of an array, with all NaN alike."""
    array = np.ascontiguousarray(array)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.nan, array).astype(array.dtype) + array.dtype.type(0)
    return array.tobytes()
