"""Tables, arrays and fits wherever a tensor is accepted; columns are matched by name."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import mvnjac
from mvnjac.errors import ArgumentError, DtypeError, MemoryLimitError, NotFiniteError, ShapeError, UnknownNameError
from mvnjac.tensors import memory

DAYS = pd.date_range("2024-01-01", periods=40)
VALUES = np.random.default_rng(0).normal(size=(40, 3)) @ np.array([[1.0, 0.3, 0.1], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
FRAME = pd.DataFrame(VALUES, columns=["USD", "CHF", "JPY"], index=DAYS)
X = torch.tensor(VALUES)
SHUFFLED = FRAME[["JPY", "USD", "CHF"]]
FIT = mvnjac.fit(FRAME)
MEAN, SIGMA = FIT.mean, FIT.gaussian.parameter("covariance_matrix")
PLAIN = mvnjac.jacobian(X, MEAN, SIGMA)

TABLES = {
    "pandas": FRAME,
    "shuffled": SHUFFLED,
    "polars": pl.from_pandas(SHUFFLED.reset_index(names="day")),
    "arrow": pa.Table.from_pandas(SHUFFLED),
    "observations": mvnjac.from_table(SHUFFLED),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_columns_are_matched_to_a_fit(table) -> None:
    J = mvnjac.jacobian(table, FIT)
    assert J.columns() == mvnjac.jacobian(X, FIT).columns()
    torch.testing.assert_close(J.matrix(), PLAIN.matrix())
    torch.testing.assert_close(mvnjac.log_prob(table, FIT), PLAIN.log_prob)
    torch.testing.assert_close(mvnjac.hessian(table, FIT).matrix(), mvnjac.hessian(X, MEAN, SIGMA).matrix())
    torch.testing.assert_close(FIT.gaussian.jacobian(table).sum(), PLAIN.sum())
    torch.testing.assert_close(FIT.gaussian.log_prob(table), PLAIN.log_prob)
    torch.testing.assert_close(
        FIT.gaussian.natural_gradient(table), mvnjac.natural_gradient(X, MEAN, SIGMA), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(FIT.gaussian.hessian(table).matrix(), mvnjac.hessian(X, FIT).matrix())
    again = mvnjac.fit(table, names=["USD", "CHF", "JPY"])
    torch.testing.assert_close(again.mean, FIT.mean)
    assert [pd.Timestamp(label) for label in J.index] == list(DAYS)
    assert isinstance(J.log_prob, torch.Tensor)
    assert isinstance(J["mean"], torch.Tensor)


def test_mean_and_covariance_as_tables() -> None:
    J = mvnjac.jacobian(FRAME, FRAME.mean(), FRAME.cov())
    expected = mvnjac.jacobian(X, X.mean(0), torch.tensor(np.cov(VALUES.T)))
    torch.testing.assert_close(J.matrix(), expected.matrix())
    assert J.columns()[0] == "mean[USD]"
    rows_and_columns_in_another_order = FRAME.cov().loc[["JPY", "CHF", "USD"], ["CHF", "JPY", "USD"]]
    K = mvnjac.jacobian(FRAME, FRAME.mean(), rows_and_columns_in_another_order)
    assert K.columns("mean") == ["mean[CHF]", "mean[JPY]", "mean[USD]"]
    torch.testing.assert_close(K["mean"][:, [2, 0, 1]], J["mean"])
    one_row = pl.from_pandas(FRAME).mean()
    torch.testing.assert_close(mvnjac.jacobian(FRAME, one_row, FRAME.cov()).matrix(), J.matrix())
    gaussian = mvnjac.Gaussian(FRAME.mean(), FRAME.cov())
    torch.testing.assert_close(gaussian.jacobian(SHUFFLED).matrix(), J.matrix())
    torch.testing.assert_close(gaussian.jacobian(X).matrix(), J.matrix())
    F = mvnjac.fisher_information(FRAME.mean(), FRAME.cov(), observed=SHUFFLED > -0.5)
    mask = X > -0.5
    torch.testing.assert_close(F.matrix(), mvnjac.fisher_information(expected.model.mean, FRAME.cov(), observed=mask).matrix())
    names = mvnjac.jacobian(FRAME, FRAME.mean(), FRAME.cov(), names=["JPY", "USD", "CHF"]).columns("mean")
    assert names == ["mean[JPY]", "mean[USD]", "mean[CHF]"]


def test_arrays() -> None:
    J = mvnjac.jacobian(VALUES, MEAN.numpy(), SIGMA.numpy())
    torch.testing.assert_close(J.matrix(), PLAIN.matrix())
    assert J.index is None
    reversed_rows = mvnjac.jacobian(VALUES[::-1], FIT).matrix()  # negative strides
    torch.testing.assert_close(reversed_rows, PLAIN.matrix().flip(0))
    big_endian = mvnjac.jacobian(VALUES.astype(">f8"), FIT).matrix()
    torch.testing.assert_close(big_endian, PLAIN.matrix())
    locked = VALUES.copy()
    locked.setflags(write=False)
    torch.testing.assert_close(mvnjac.jacobian(locked, FIT).matrix(), PLAIN.matrix())
    counts = np.arange(40) % 3
    for weights in (counts, pd.Series(counts, index=DAYS), pa.array(counts), pl.Series(counts)):
        torch.testing.assert_close(PLAIN.sum(weights)["mean"], PLAIN.sum(torch.tensor(counts).double())["mean"])
        assert mvnjac.fit(FRAME, weights=weights).rows == int((counts > 0).sum())
    masked = np.ma.masked_array(VALUES, VALUES > 1)
    torch.testing.assert_close(
        mvnjac.log_prob(masked, FIT, missing="marginalise"),
        mvnjac.log_prob(X.masked_fill(X > 1, torch.nan), MEAN, SIGMA, missing="marginalise"),
    )
    nullable = pd.Series(counts, dtype="Int64").mask(counts == 0)
    with pytest.raises(ArgumentError, match="the weight of row 0 is nan"):
        mvnjac.fit(FRAME, weights=nullable)


def test_names_come_from_the_table_if_there_are_no_others() -> None:
    assert FIT.names == ["USD", "CHF", "JPY"]
    assert mvnjac.jacobian(FRAME, MEAN, SIGMA).columns("mean") == ["mean[USD]", "mean[CHF]", "mean[JPY]"]
    unnamed = mvnjac.fit(X)
    assert mvnjac.jacobian(FRAME, unnamed).columns("mean") == ["mean[USD]", "mean[CHF]", "mean[JPY]"]
    assert unnamed.names is None


def test_a_fit_keeps_its_options() -> None:
    gaps = FRAME.mask(FRAME > 1)
    fit = mvnjac.fit(gaps, missing="marginalise")
    J = mvnjac.jacobian(gaps, fit)
    torch.testing.assert_close(J.sum()["mean"], torch.zeros(3).double(), atol=1e-5, rtol=0)
    assert J.model.arguments.function == "jacobian"
    torch.testing.assert_close(mvnjac.jacobian(gaps, FIT, missing="marginalise").log_prob[0], PLAIN.log_prob[0])
    single = mvnjac.Gaussian(MEAN.float(), SIGMA.float())
    assert mvnjac.jacobian(X.float(), single, precision="float64").model.working == torch.float64
    with pytest.raises(ArgumentError, match="got a covariance in addition to a Fit"):
        mvnjac.jacobian(X, FIT, SIGMA)
    with pytest.raises(ArgumentError, match="differs from the names of the Fit"):
        mvnjac.jacobian(X, FIT, names=["a", "b", "c"])


def test_wrong_tables() -> None:
    with pytest.raises(UnknownNameError, match="x has no column 'JPY'; the variables are 'USD', 'CHF', 'JPY'"):
        mvnjac.jacobian(FRAME[["USD", "CHF"]], FIT)
    with pytest.raises(UnknownNameError, match="x has the column 'EUR', which is not a variable"):
        mvnjac.log_prob(FRAME.assign(EUR=1.0), FIT)
    with pytest.raises(UnknownNameError, match="covariance has no column 'JPY'"):
        mvnjac.jacobian(FRAME, FRAME.mean(), FRAME.cov().iloc[:2, :2], names=FIT.names)
    with pytest.raises(UnknownNameError, match="the index of covariance has no column 'USD'"):
        mvnjac.jacobian(FRAME, FRAME.mean(), FRAME.cov().rename(index={"USD": "EUR"}))
    with pytest.raises(ShapeError, match=r"x has 2 columns .*3 variables"):
        mvnjac.jacobian(FRAME[["USD", "CHF"]], MEAN, SIGMA)
    with pytest.raises(DtypeError, match=r"fit: column 'day' is not numeric .*from_table\(…, columns=…\)"):
        mvnjac.fit(FRAME.assign(day="Monday"))
    with pytest.raises(NotFiniteError, match=r"fit: 'CHF' is missing in row 2 \(index 2024-01-03 00:00:00\); 1 entry in 1 row"):
        mvnjac.fit(FRAME.mask((FRAME.index == DAYS[2])[:, None] & (FRAME.columns == "CHF")))
    with pytest.raises(DtypeError, match="x is an array of"):
        mvnjac.jacobian(np.array([["a", "b", "c"]]), FIT)
    with pytest.raises(DtypeError, match=r"2\*\*53"):
        PLAIN.sum(np.full(40, 2**60 + 1))
    with pytest.raises(DtypeError, match="x is a list"):
        mvnjac.jacobian([[1.0, 2.0, 3.0]], FIT)
    with pytest.raises(ShapeError, match="the table of the mean has 40 rows"):
        mvnjac.jacobian(FRAME, FRAME, FRAME.cov())


def test_results_keep_names_and_index() -> None:
    J = mvnjac.jacobian(FRAME, FIT)
    frame = J.to_pandas()
    assert frame.index is not None
    pd.testing.assert_index_equal(frame.index, FRAME.index)
    assert list(frame.columns) == J.columns()
    np.testing.assert_array_equal(frame.to_numpy(), J.matrix().numpy())
    np.testing.assert_array_equal(np.asarray(J), J.matrix().numpy())
    assert np.asarray(J, dtype=np.float32).dtype == np.float32
    assert (J.shape, len(J), bool(J), bool(J[:0])) == ((40, 9), 40, True, True)
    pd.testing.assert_frame_equal(J[5:7].to_pandas("mean"), J.to_pandas("mean").iloc[5:7], check_freq=False)
    pd.testing.assert_frame_equal(J[[3, 1]].to_pandas("mean"), J.to_pandas("mean").iloc[[3, 1]], check_freq=False)
    mask = torch.arange(40) < 2
    assert list(J[mask].index) == list(DAYS[:2])
    array = J.to_xarray("scale")
    assert array.dims == ("row", "column")
    assert float(array.sel(row=DAYS[1], column="scale[CHF]")) == float(J.unique("scale")[1, 1])
    arrow = mvnjac.jacobian(TABLES["polars"], FIT).to_arrow("mean")
    assert arrow.column_names == ["day", "mean[USD]", "mean[CHF]", "mean[JPY]"]
    assert PLAIN.to_arrow("mean").column_names == ["mean[0]", "mean[1]", "mean[2]"]
    assert list(PLAIN.to_pandas().index) == list(range(40))
    assert mvnjac.jacobian(X[0], MEAN, SIGMA).to_pandas("mean").shape == (1, 3)
    again = pickle.loads(pickle.dumps(J))
    pd.testing.assert_frame_equal(again.to_pandas(), frame)


def test_multi_index_and_time_zone_survive() -> None:
    index = pd.MultiIndex.from_product([["a", "b"], range(20)], names=["firm", "year"])
    pd.testing.assert_index_equal(mvnjac.jacobian(FRAME.set_index(index), FIT).to_pandas().index, index)
    zone = DAYS.tz_localize("Europe/Zurich")
    pd.testing.assert_index_equal(mvnjac.jacobian(FRAME.set_index(zone), FIT)[3:].to_pandas().index, zone[3:], exact="equiv")


def test_what_a_table_cannot_hold(monkeypatch) -> None:
    grid = mvnjac.jacobian(X[:, None], MEAN, SIGMA.expand(2, 3, 3).contiguous())
    with pytest.raises(ShapeError, match=r"leading dimensions \(40, 2\)"):
        grid.to_pandas()
    graph = mvnjac.jacobian(X, MEAN.clone().requires_grad_(), SIGMA)
    for call in (graph.to_pandas, graph.to_arrow, graph.to_xarray, lambda: np.asarray(graph)):
        with pytest.raises(ArgumentError, match="require gradients"):
            call()
    with pytest.raises(TypeError, match="no length"):
        len(mvnjac.jacobian(X[0], MEAN, SIGMA))
    with pytest.raises(ValueError, match="copy cannot be avoided"):
        np.array(PLAIN, copy=False)
    monkeypatch.setattr(memory, "available", lambda *_: 1000)
    monkeypatch.setattr(memory, "SMALL", 0)
    with pytest.raises(MemoryLimitError):
        np.asarray(mvnjac.jacobian(FRAME, FIT))
