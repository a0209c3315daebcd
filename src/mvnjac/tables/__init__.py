"""Tables: reading them in batches, writing them, and the rules for columns, row order and exact numbers.

Memory does not grow with the number of rows. The package may use `tensors` and `errors`. Its public names, for table formats
that are defined outside this package, are `TableFormat`, `register_format`, `Source`, `Sink`, `Slice`, `ReadOptions`,
`as_float64` and `open_source`; they are loaded on first use, so that importing this package does not import pyarrow. Interface
for other packages of mvnjac: `base`, `reading`, `slices`, `rows`, `columns`, `exact`, `output`, `storage`, `sorting`,
`chronology`, `returns`, `suspicious_values`, `mean_and_covariance`, `dataframes`, `read_table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mvnjac.imports import LazyNames

if TYPE_CHECKING:
    from mvnjac.tables.base import Sink as Sink
    from mvnjac.tables.base import Source as Source
    from mvnjac.tables.base import TableFormat as TableFormat
    from mvnjac.tables.base import as_float64 as as_float64
    from mvnjac.tables.base import open_source as open_source
    from mvnjac.tables.base import register_format as register_format
    from mvnjac.tables.reading import ReadOptions as ReadOptions
    from mvnjac.tables.slices import Slice as Slice

_LAZY = LazyNames(
    __name__,
    {
        "Slice": "tables.slices",
        "ReadOptions": "tables.reading",
        **dict.fromkeys(("Sink", "Source", "TableFormat", "as_float64", "open_source", "register_format"), "tables.base"),
    },
)


def __getattr__(name: str) -> Any:
    return _LAZY.load(name)


def __dir__() -> list[str]:
    return _LAZY.names()
