"""The content of a report on rows in memory: a tensor, an array, a data frame, or an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, ShapeError, UsageError, counted
from mvnjac.estimation.result import Fit
from mvnjac.gaussian import Gaussian
from mvnjac.jobs.density import with_names
from mvnjac.report.analysis.content import Content, Description, content_of, is_estimate_from, parameter_count
from mvnjac.report.analysis.load_rows import labelled, require_memory
from mvnjac.tables.arrays import as_tensor
from mvnjac.tables.dataframes import Observations, from_table


def content_of_arrays(fit: Fit | Gaussian, data: Any, title: str) -> Content:
    """Compute the content of a report on rows in memory; the arguments are those of `mvnjac.write_report`."""
    gaussian = _plain(fit.gaussian if isinstance(fit, Fit) else fit)
    x, names, labels, index = _rows(data, gaussian.names)
    d = gaussian.model.d
    if x.ndim != 2 or x.shape[1] != d or not len(x):
        raise ShapeError(f"write_report: the data have shape {tuple(x.shape)}; expected rows of {counted(d, 'variable')}.")
    names = gaussian.names or names or [str(i) for i in range(d)]
    gaussian = with_names(gaussian, names, gaussian.model.arguments.missing)
    try:
        count = parameter_count(gaussian)
    except UsageError as error:
        raise ArgumentError(f"write_report: {error}") from None
    require_memory("write_report", len(x), d, count)
    estimate = isinstance(fit, Fit) and fit.converged and is_estimate_from(fit.fingerprint(), x)
    return content_of(
        gaussian,
        names,
        labelled(x, labels),
        Description(title, index, missing=gaussian.model.arguments.missing, command="mvnjac.write_report"),
        estimate,
    )


def _plain(gaussian: Any) -> Gaussian:
    """The Gaussian in float64 on the CPU, without gradients."""
    if not isinstance(gaussian, Gaussian):
        raise ArgumentError(f"write_report: got a {type(gaussian).__name__}; expected a Fit or a Gaussian.")
    model = gaussian.model
    if model.batch:
        raise ShapeError(f"write_report: the Gaussian has batch dimensions {tuple(model.batch)}; expected a single Gaussian.")

    def plain(t: Tensor) -> Tensor:
        return t.detach().to("cpu", torch.float64)

    covariance = gaussian.covariance.map(plain)
    mean = None if covariance.mean is not None else plain(gaussian.mean)
    result = Gaussian(mean, covariance, names=model.arguments.naming.argument, missing=model.arguments.missing)
    result.boundary = gaussian.boundary
    return result


def _rows(data: Any, names: list[str] | None) -> tuple[Tensor, list[str] | None, Sequence[Any] | None, str | None]:
    """The rows (n, d) in float64; if available, the names of the columns, the row labels, and the name of the labels."""
    if isinstance(data, Tensor | np.ndarray):
        x = as_tensor("write_report", "data", data).detach().to("cpu", torch.float64)
        return x.flatten(1) if x.ndim > 2 else x, None, None, None
    table = data if isinstance(data, Observations) else from_table(data, columns=names)
    x, columns = table.x, table.names
    if names is not None and columns != names:
        missing = [name for name in names if name not in columns]
        if missing:
            raise ArgumentError(f"write_report: the data have no column {missing[0]!r}; the columns are {', '.join(columns)}.")
        x, columns = x[:, [columns.index(name) for name in names]], names
    return x, columns, None if table.index_name is None else table.index, table.index_name
