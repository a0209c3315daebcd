"""The columns of an output of `mvnjac jacobian`, and the metadata that state what its numbers are.

Parquet and Arrow files store the metadata of the schema; the other formats have none. The keys are documented in
docs/reference/command_line.md, and are a promise to the readers of the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mvnjac._version import __version__
from mvnjac.engines.job import digest
from mvnjac.jobs.data import Data
from mvnjac.jobs.scores import PortableGaussian
from mvnjac.tables.base import Source
from mvnjac.tables.pandas_metadata import PANDAS, pandas_metadata
from mvnjac.tensors import memory

#: the key of the schema's metadata
MVNJAC = b"mvnjac"
#: the version of the metadata's keys
_FORMAT = 1
#: the largest number of values of a model that is stored as a whole, about 40 kB of text; d = 44 for a dense covariance
MOST_VALUES = 2000
#: bytes per column of a written table, measured: its name, its type, and the buffers of the format
_COLUMN = 8192
#: suffixes of formats that store types and metadata
_TYPED = (".parquet", ".arrow", ".feather")


def schema_of_scores(
    data: Data,
    source: Source,
    names: Sequence[str],
    density: PortableGaussian,
    wrt: Sequence[str] | None,
    layout: str,
    output: str | Path | None,
) -> pa.Schema:
    """The schema of a table of scores: the index, then the columns of `J.matrix(wrt, layout)`.

    Args:
        names: the variables.
        output: the file, or the suffix of the parts; None: standard output.

    Raises:
        MemoryLimitError: there are too many columns.
    """
    empty = density.gaussian().jacobian(density.mean.new_zeros(0, density.mean.numel(), device=density.device))
    count = empty.selection(wrt, layout).size
    advice = "select fewer variables with --columns or fewer columns with --wrt; --sum-only needs one number per column."
    memory.require_bytes(f"jacobian: {count:,} columns of scores", _COLUMN * count, torch.device("cpu"), advice)
    fields = [(name, pa.float64()) for name in empty.columns(wrt, layout)]
    typed = str(output).lower().endswith(_TYPED)
    if data.index:
        fields.insert(0, (data.index, _index_type(source, data.index, typed)))
    schema = pa.schema(fields)
    if not typed:
        return schema
    schema = with_metadata(schema, "scores", data, names, density, layout)
    return schema.with_metadata({**schema.metadata, PANDAS: pandas_metadata(schema, data.index)}) if data.index else schema


def with_metadata(
    schema: pa.Schema, content: str, data: Data, names: Sequence[str], density: PortableGaussian, layout: str = "unique"
) -> pa.Schema:
    """The schema with a description of the numbers under the key "mvnjac", as JSON.

    Args:
        content: what the table holds: "scores", "sums of scores" or "sums of products of scores".
    """
    about = {
        "format": _FORMAT,
        "version": __version__,
        "content": content,
        "convention": _convention(layout),
        "index": data.index,
        "variables": list(names),
        "log_returns": data.log_returns,
        "returns": data.returns,
        "missing": data.missing,
        "model": _model(density),
    }
    return schema.with_metadata({MVNJAC: json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()})


def _convention(layout: str) -> dict[str, Any]:
    """How the derivative by a symmetric matrix is stored."""
    unique = layout == "unique"
    return {
        "elements": layout,
        "symmetric": "vech: lower triangle, column by column" if unique else "every entry, row-major",
        "off_diagonals_doubled": unique,
    }


def _model(density: PortableGaussian) -> dict[str, Any]:
    """The structure, its names and its parameters, which are omitted if there are many; the fingerprint identifies them."""
    parameters = {"mean": density.mean, **density.covariance.parameters}
    few = sum(value.numel() for value in parameters.values()) <= MOST_VALUES
    return {
        "structure": density.covariance.stored_form(),
        "names": None if density.names is None else list(density.names),
        "parameters": _values(parameters) if few else None,
        "fingerprint": digest(parameters),
    }


def _values(parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values as nested lists; 17 digits, from which a float64 is read back exactly."""
    return {name: value.detach().cpu().tolist() for name, value in parameters.items()}


def _index_type(source: Source, index: str, typed: bool) -> pa.DataType:
    """The type of the index in the output: that of the table.

    Text, such as CSV, does not state types. Its dates become timestamps where the output has types, since pandas has no index
    of dates: it reads timestamps as a DatetimeIndex, and dates as Python objects.
    """
    kind = source.schema.field(index).type
    if pa.types.is_null(kind) and not source.states_types:  # no label in the first rows
        return pa.string()
    return pa.timestamp("ms") if typed and not source.states_types and pa.types.is_date(kind) else kind
