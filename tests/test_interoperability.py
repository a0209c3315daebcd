"""Tables, statsmodels, scikit-learn and xarray: they give the same numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from statsmodels.base.model import GenericLikelihoodModel
from statsmodels.stats import sandwich_covariance

import mvnjac
from mvnjac import errors, inference
from mvnjac.covariance import structures
from mvnjac.covariance.parametrisation import DenseParametrisation
from mvnjac.errors import DtypeError, ShapeError, UnknownNameError
from mvnjac.estimation.structure import choices, kebab
from mvnjac.sklearn import GaussianModel

RNG = np.random.default_rng(4)
X = RNG.normal(size=(150, 3)) @ RNG.normal(size=(3, 3)) + 2
NAMES = ["a", "b", "c"]


def jacobian() -> mvnjac.Jacobian:
    x = torch.from_numpy(X)
    return mvnjac.fit(x, names=NAMES).gaussian.jacobian(x)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_pandas_in_pandas_out() -> None:
    frame = pd.DataFrame(X, columns=NAMES, index=pd.date_range("2020-01-01", periods=150)).assign(note="text")
    frame.loc[frame.index[3], "b"] = np.nan
    rows = mvnjac.from_table(frame, columns=NAMES)
    assert rows.names == NAMES
    J = mvnjac.fit(rows.x, names=rows.names, missing="marginalise").gaussian.jacobian(rows.x)
    scores = rows.table(J.matrix(), J.columns())
    assert list(scores.columns) == J.columns()
    assert scores.index.equals(frame.index)
    assert scores.loc["2020-01-04", "mean[b]"] == 0
    influence = inference.influence(J, labels=rows.index)
    assert influence.top(1).labels[0] in frame.index


def test_arrow_in_arrow_out() -> None:
    table = pa.table({"day": [f"d{i}" for i in range(150)], **{name: X[:, j] for j, name in enumerate(NAMES)}})
    rows = mvnjac.from_table(table, columns=["c", "a"], index="day")
    np.testing.assert_array_equal(rows.x.numpy(), X[:, [2, 0]])
    out = rows.table(rows.x, rows.names)
    assert out.column_names == ["index", "c", "a"]
    assert out["index"].to_pylist()[:2] == ["d0", "d1"]

    class Stream:
        """An object with Arrow's C stream interface."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return table.__arrow_c_stream__(requested_schema)

    np.testing.assert_array_equal(mvnjac.from_table(Stream(), index="day").x.numpy(), X)
    holes = mvnjac.from_table(pa.table({"a": pa.array([1, None, 3])}))
    np.testing.assert_array_equal(holes.x.numpy(), [[1.0], [np.nan], [3.0]])


def test_tables_that_are_none() -> None:
    frame = pd.DataFrame({"a": [1.0], "b": ["text"]})
    for table in (frame, pa.Table.from_pandas(frame)):
        with pytest.raises(DtypeError, match=r"column 'b' is not numeric .*columns="):
            mvnjac.from_table(table, columns=["b"])
        with pytest.raises(UnknownNameError, match="no column 'z'"):
            mvnjac.from_table(table, columns=["z"])
    with pytest.raises(DtypeError, match="got a list"):
        mvnjac.from_table([1, 2])
    with pytest.raises(ShapeError, match="expected 1 rows and 2 columns"):
        mvnjac.from_table(frame, columns="a").table(torch.zeros(1, 1), ["a", "b"])


def test_xarray_out() -> None:
    J = jacobian()
    V = inference.covariance_of_estimates(J)
    assert float(V.to_xarray().sel(parameter="mean[a]")["standard_error"]) == V.standard_error("mean[a]")
    process = inference.score_process(J).to_xarray()
    assert process.dims == ("row", "parameter")
    assert process.shape == (150, 9)
    assert inference.influence(J).to_xarray()["change"].shape == (150, 9)
    rows = mvnjac.from_table(pd.DataFrame(X, columns=NAMES))
    assert float(rows.to_xarray(J.matrix(), J.columns()).sel(row=3, column="mean[b]")) == float(J["mean"][3, 1])


# --- statsmodels -----------------------------------------------------------------------------------------------------


def test_statsmodels_sandwich_of_our_scores() -> None:
    """Its functions of scores and inverse Hessian give the same covariances."""
    J = jacobian()
    scores, inverse = J.matrix().numpy(), inference.covariance_of_estimates(J, "observed").covariance.numpy()
    groups = np.arange(150) // 10
    pairs = {
        "sandwich": (sandwich_covariance.cov_white_simple((scores, inverse), use_correction=False), {}),
        "clustered": (
            sandwich_covariance.cov_cluster((scores, inverse), groups, use_correction=False),
            {"clusters": groups.tolist()},
        ),
        "hac": (
            sandwich_covariance.cov_hac_simple((scores, inverse), nlags=4, use_correction=False),
            {"lag": 4, "prewhite": False},
        ),
    }
    for kind, (expected, arguments) in pairs.items():
        if kind == "clustered":
            arguments["cluster_adjust"] = False
        ours = inference.covariance_of_estimates(J, kind, **arguments).covariance.numpy()
        scale = np.sqrt(np.diag(expected))
        assert np.abs((ours - expected) / np.outer(scale, scale)).max() < 1e-10, kind


def test_generic_likelihood_model_takes_our_scores() -> None:
    """Its robust standard errors, computed from our `score_obs` and `hessian`, are the same as ours."""

    class Saturated(GenericLikelihoodModel):
        def _at(self, params: np.ndarray) -> mvnjac.Jacobian:
            theta = torch.from_numpy(np.asarray(params))
            return mvnjac.jacobian(torch.from_numpy(self.endog), theta[:3], mvnjac.LogCholesky(mvnjac.unvech(theta[3:]).tril()))

        def loglikeobs(self, params: np.ndarray) -> np.ndarray:
            return self._at(params).log_prob.numpy()

        def score_obs(self, params: np.ndarray) -> np.ndarray:
            return self._at(params).matrix().numpy()

        def score(self, params: np.ndarray) -> np.ndarray:
            return self.score_obs(params).sum(0)

        def hessian(self, params: np.ndarray) -> np.ndarray:
            theta = torch.from_numpy(np.asarray(params))
            covariance = mvnjac.LogCholesky(mvnjac.unvech(theta[3:]).tril())
            return mvnjac.hessian(torch.from_numpy(self.endog), theta[:3], covariance).matrix().numpy()

    start = np.concatenate([X.mean(0), np.zeros(6)])
    model = Saturated(X, exog=np.ones((150, 1)), extra_params_names=[])
    model.exog_names[:] = [f"t{i}" for i in range(9)]
    result = model.fit(start_params=start, method="newton", disp=False, cov_type="HC0")
    estimate = mvnjac.fit(torch.from_numpy(X), "log-cholesky")
    ours = inference.covariance_of_estimates(estimate.gaussian.jacobian(torch.from_numpy(X)))
    np.testing.assert_allclose(result.params, ours.values.numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(result.bse, ours.standard_errors.numpy(), rtol=1e-5)


# --- scikit-learn ----------------------------------------------------------------------------------------------------


def one_factor(rows: torch.Tensor) -> torch.Tensor:
    """(n, 3) columns with one common factor, computed row by row; the residuals of a row sum to 0, so that no column is the factor."""
    phases = torch.arange(3, dtype=rows.dtype) * (2 * torch.pi / 3)
    return rows[:, :1] + 0.3 * (41.75 * (rows[:, :1] + 0.37 * rows[:, 1:2]) + phases).cos()


#: transformations of scikit-learn's tables whose size a structure does not allow: 9 distinct rows of 30 variables for a dense Σ, two
#: variables for a factor, any number for a matrix
SERVED = {
    **{kebab(name): lambda x: x[:, :5] for name, cls in structures().items() if issubclass(cls, DenseParametrisation)},
    "toeplitz": lambda x: x[:, :10],
    "low-rank:1": one_factor,
    "kronecker:2x1": lambda x: x[:, :2],
}
#: the structures, with options for which scikit-learn's tables have enough variables
OPTIONS = {"low-rank": ":1", "kronecker": ":2x1", "banded-precision": ":1", "autoregressive": ":1"}


class Served(GaussianModel):
    """The estimator on columns that are suitable for its structure."""

    def _rows(self, X: object, reset: bool) -> torch.Tensor:
        rows = super()._rows(X, reset)
        return SERVED.get(self.structure, lambda x: x)(rows) if rows.shape[1] > 1 else rows

    def _names(self) -> None:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("structure", [name + OPTIONS.get(name, "") for name in choices()])
def test_scikit_learns_own_checks(structure: str) -> None:
    """No check fails, and only the check of array API inputs is left out."""
    model = Served(structure) if structure in SERVED else GaussianModel(structure)
    results = check_estimator(model, on_skip=None)
    assert {result["check_name"] for result in results if result["status"] != "passed"} <= {"check_array_api_input"}
    assert len(results) > 50


@pytest.mark.parametrize("structure", ["dense", "diagonal", "compound-symmetric"])
def test_scikit_learns_own_checks_with_missing_entries(structure: str) -> None:
    model = Served(structure, missing="marginalise")
    results = check_estimator(model, on_skip=None)
    assert {result["check_name"] for result in results if result["status"] != "passed"} <= {"check_array_api_input"}


def test_what_has_no_density_is_refused() -> None:
    with pytest.raises(errors.NotPositiveDefiniteError, match="27 rows for 30 variables"):
        GaussianModel().fit(np.random.default_rng(0).normal(size=(27, 30)))
    with pytest.raises(
        errors.ArgumentError, match=r"the correlation of a single variable is not identified; .*\(n_features = 1\)"
    ):
        GaussianModel("compound-symmetric").partial_fit(X[:, :1])


@pytest.mark.parametrize("structure", ["isotropic", "compound-symmetric", "ar:1", "toeplitz", "banded-precision:1"])
def test_structures_whose_parameters_do_not_tell_the_number_of_variables(structure: str) -> None:
    model = GaussianModel(structure).fit(X)
    expected = mvnjac.fit(torch.from_numpy(X), structure).covariance.dense(3).numpy()
    np.testing.assert_allclose(model.covariance_, expected, rtol=1e-10, atol=1e-12)
    assert model.transform(X).shape == (150, len(model.get_feature_names_out()))
    assert model.sample(5, random_state=0).shape == (5, 3)


def test_weights_are_counts() -> None:
    twice = GaussianModel().fit(np.concatenate([X, X[:40]]))
    weighted = GaussianModel().fit(X, sample_weight=np.where(np.arange(150) < 40, 2, 1))
    np.testing.assert_allclose(weighted.covariance_, twice.covariance_, rtol=1e-10)


def test_the_estimator() -> None:
    frame = pd.DataFrame(X, columns=NAMES)
    model = GaussianModel().set_output(transform="pandas").fit(frame)
    scores, J = model.transform(frame), jacobian()
    assert list(scores.columns) == J.columns()
    np.testing.assert_allclose(scores.to_numpy(), J.matrix().numpy(), atol=1e-10)
    np.testing.assert_allclose(model.score_samples(frame), J.log_prob.numpy(), rtol=1e-12)
    assert model.score(frame) == pytest.approx(model.fit_.log_likelihood / 150, rel=1e-12)
    drawn = model.sample(4000, random_state=0)
    np.testing.assert_allclose(drawn.mean(0), model.mean_, atol=0.2)
    selected = GaussianModel(wrt="covariance_matrix").fit(X)
    assert list(selected.get_feature_names_out()[:2]) == ["covariance_matrix[0,0]", "covariance_matrix[1,0]"]


def test_partial_fits_are_a_fit() -> None:
    holes = X.copy()
    holes[::7, 1] = np.nan
    for data, arguments in ((X, {}), (X, {"structure": "toeplitz"}), (holes, {"missing": "marginalise"})):
        model, whole = GaussianModel(**arguments), GaussianModel(**arguments).fit(data)
        for part in np.array_split(data, 3):
            model.partial_fit(part)
        np.testing.assert_allclose(model.mean_, whole.mean_, rtol=1e-7)
        np.testing.assert_allclose(model.covariance_, whole.covariance_, rtol=1e-6, atol=1e-9)
        assert not hasattr(clone(model), "fit_")
    again = model.fit(X[:50])  # `fit` discards earlier rows
    np.testing.assert_allclose(again.mean_, X[:50].mean(0))


def test_in_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), GaussianModel("diagonal"))
    assert pipeline.fit_transform(X).shape == (150, 6)
    assert np.isfinite(pipeline.score_samples(X)).all()
