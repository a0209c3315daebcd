"""The arguments of public functions as users hold them: tensors, data frames, Arrow tables, arrays, and fits.

Names are matched, not positions: the columns of a table are brought into the order of the names of the mean and the covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mvnjac.errors import ArgumentError, NotFiniteError, ShapeError, UnknownNameError, counted
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.parameters.names import NamesArgument, valid_names
from mvnjac.tables.arrays import as_tensor, is_array
from mvnjac.tables.dataframes import Observations, is_table, observations
from mvnjac.tables.row_index import RowIndex

#: the most names that a message lists
_LISTED = 10


@dataclass(frozen=True)
class Inputs:
    """A model and the rows at which it is evaluated.

    Attributes:
        model: the mean and the covariance, with the names of the variables.
        x: the rows, as they were given or as a tensor (n, d) in the order of the model's variables.
        index: the labels of the rows; None if x is not a table.
    """

    model: Model
    x: Any
    index: RowIndex | None


def density_of(
    function: str,
    mean: Any,
    covariance: Any = None,
    *,
    names: NamesArgument | None = None,
    missing: str | None = None,
    precision: str | None = None,
    check: bool = True,
) -> Model:
    """The model of a mean and a covariance, which may be tables; or that of a `Fit` or a `Gaussian` in place of both.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, UnknownNameError: the arguments are invalid or do not match.
    """
    estimated = _model_of(mean)
    if estimated is None:
        if _is_labelled(mean) or _is_labelled(covariance):
            mean, covariance, names = _from_tables(function, mean, covariance, names)
        return Model(parse(function, mean, covariance, names=names, missing=missing, precision=precision, check=check))
    if covariance is not None:
        raise ArgumentError(
            f"{function}: got a covariance in addition to a {type(mean).__name__}, which has one; leave it out."
        )
    arguments = estimated.arguments
    if names is not None:
        naming = valid_names(function, names, arguments.event, arguments.covariance.matrix_shape)
        if arguments.naming.given and naming != arguments.naming:
            raise ArgumentError(f"{function}: names= differs from the names of the {type(mean).__name__}; leave it out.")
        arguments = replace(arguments, naming=naming)
    return estimated.with_options(function, arguments.naming, missing, precision, check)


def with_rows(model: Model, x: Any) -> Inputs:
    """The rows of a tensor, an array or a table for a model, which takes the names of the columns if it has none.

    Raises:
        UnknownNameError: a table lacks a variable, or has a column that is none.
        NotFiniteError, ShapeError, DtypeError: the rows are invalid.
    """
    if isinstance(x, Tensor):
        return Inputs(model, x, None)
    function = model.arguments.function
    if not is_table(x):
        return Inputs(model, as_tensor(function, "x", x), None)
    table = observations(function, x)
    if model.arguments.check and model.arguments.missing is None:
        _require_complete(function, table)
    names = model.arguments.names
    if names is None:
        if len(table.names) != model.d:
            raise ShapeError(
                f"{function}: x has {len(table.names)} columns ({_listed(table.names)}), but the mean and the covariance have "
                f"{model.d} variables."
            )
        naming = valid_names(function, table.names, (model.d,), None)
        return Inputs(model.with_naming(naming), table.x, RowIndex.of(table))
    return Inputs(model, table.x[:, matched(function, "x", table.names, names)], RowIndex.of(table))


def _require_complete(function: str, table: Observations) -> None:
    """Raise a NotFiniteError with the first missing entry, by its column and row label."""
    absent = table.x.isnan()
    if bool(absent.any()):
        row, column = absent.nonzero()[0].tolist()
        entries, rows = int(absent.sum()), int(absent.any(-1).sum())
        raise NotFiniteError(
            f"{function}: {table.names[column]!r} is missing in row {row} ({table.index_name or 'index'} {table.index[row]}); "
            f"{counted(entries, 'entry')} in {counted(rows, 'row')} {'is' if entries == 1 else 'are'} missing; pass "
            "missing='marginalise' to use the observed entries of each row, or drop these rows."
        )


def table_rows(
    function: str, x: Any, names: NamesArgument | None, missing: str | None
) -> tuple[Any, NamesArgument | None, RowIndex | None]:
    """Rows as a tensor in the order of `names`, the names (the columns of a table if there are none), and the row labels."""
    if isinstance(x, Tensor) or not is_table(x):
        return as_tensor(function, "x", x), names, None
    table = observations(function, x)
    if missing is None:
        _require_complete(function, table)
    index = RowIndex.of(table)
    if names is None:
        return table.x, table.names, index
    if any(not isinstance(name, str) for name in names):  # of the rows and columns of a matrix
        return table.x, names, index
    return table.x[:, matched(function, "x", table.names, [str(name) for name in names])], names, index


def matched(function: str, argument: str, columns: Sequence[str], names: Sequence[str]) -> slice | list[int]:
    """The positions of the variables `names` among the columns of a table; a slice of all if the order is the same.

    Raises:
        UnknownNameError: a variable is absent, or a column is not a variable.
    """
    if list(columns) == list(names):
        return slice(None)
    absent = [name for name in names if name not in set(columns)]
    unknown = [name for name in columns if name not in set(names)]
    if absent:
        also = f" The columns that are not variables: {_listed(unknown)}." if unknown else ""
        raise UnknownNameError(
            f"{function}: {argument} has no column {_listed(absent)}; the variables are {_listed(names)}.{also}"
        )
    if unknown:
        raise UnknownNameError(
            f"{function}: {argument} has the column {_listed(unknown)}, which is not a variable; select the columns "
            f"{_listed(names)}."
        )
    positions = {name: i for i, name in enumerate(columns)}
    return [positions[name] for name in names]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_LISTED])) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")


def _is_labelled(value: object) -> bool:
    return not isinstance(value, Tensor) and (is_array(value) or is_table(value))


def _model_of(value: object) -> Model | None:
    """The model of a `Fit` or a `Gaussian`; None for other objects."""
    if isinstance(value, Tensor):
        return None
    model = getattr(getattr(value, "gaussian", value), "model", None)
    return model if isinstance(model, Model) else None


def _from_tables(
    function: str, mean: Any, covariance: Any, names: NamesArgument | None
) -> tuple[Any, Any, NamesArgument | None]:
    """Mean and covariance as tensors, in the order of `names`, of the covariance's columns or of the mean's labels."""
    mean, mean_names = _vector(function, mean)
    covariance, covariance_names = _matrix(function, covariance)
    of_matrices = names is not None and any(not isinstance(name, str) for name in names)
    order: Any = covariance_names or mean_names if names is None or of_matrices else list(names)
    if order is not None and mean_names is not None:
        mean = mean[matched(function, "mean", mean_names, order)]
    if order is not None and covariance_names is not None:
        at = matched(function, "covariance", covariance_names, order)
        covariance = covariance[at][:, at]
    return mean, covariance, names if of_matrices else order


def _vector(function: str, mean: Any) -> tuple[Any, list[str] | None]:
    """A mean as a tensor, and its names: the labels of a Series, or the columns of a table of one row."""
    if not is_table(mean):
        named = hasattr(mean, "iloc") and type(mean.index).__name__ != "RangeIndex"
        return as_tensor(function, "mean", mean), [str(label) for label in mean.index] if named else None
    table = observations(function, mean)
    if len(table.x) != 1:
        raise ShapeError(f"{function}: the table of the mean has {len(table.x)} rows; expected one, or a Series.")
    return table.x[0], table.names


def _matrix(function: str, covariance: Any) -> tuple[Any, list[str] | None]:
    """A covariance as a tensor, and its names: the columns of a table; rows are matched by the index of a data frame."""
    if not is_table(covariance):
        return as_tensor(function, "covariance", covariance), None
    table = observations(function, covariance)
    if len(table.x) != len(table.names):
        raise ShapeError(
            f"{function}: the table of the covariance has {len(table.x)} rows and {len(table.names)} columns; expected a square."
        )
    if table.index_name is None:  # the rows are only numbered
        return table.x, table.names
    rows = matched(function, "the index of covariance", [str(label) for label in table.index], table.names)
    return table.x[rows], table.names


def observed_rows(function: str, observed: Any, names: Sequence[str] | None) -> Any:
    """A mask of observed entries as a boolean tensor; the columns of a data frame are matched by name."""
    if isinstance(observed, Tensor) or not hasattr(observed, "columns"):
        return as_tensor(function, "observed", observed)
    columns = [str(name) for name in observed.columns]
    mask = as_tensor(function, "observed", observed.to_numpy())
    return mask if names is None else mask[:, matched(function, "observed", columns, names)]
