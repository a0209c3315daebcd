"""The numbers of a report as JSON in its page: <script type="application/json" id="mvnjac-data">."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from mvnjac._version import __version__
from mvnjac.inference.process_plots import LEVEL
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.estimates_table import HeatMap, TotalScore
from mvnjac.report.analysis.stability import Break, Cusum
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html.markup import Markup


def data_block(content: Content) -> Markup:
    """The JSON block. <, > and & are escaped, so that no text can end the block; NaN is null."""
    written = json.dumps(_plain(_record(content)), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="mvnjac-data">{written}</script>')


def _record(content: Content) -> dict[str, Any]:
    data, table = content.data, content.parameters
    columns: dict[str, Any] = {"parameter": table.names, "description": table.words}
    columns |= {heading.replace(" ", "_"): values for heading, values in table.columns.items()}
    return {
        "mvnjac": __version__,
        "data": {
            "file": data.title,
            "rows": content.rows,
            "first": content.labels[0],
            "last": content.labels[-1],
            "sorted": content.sorted,
            "index": data.index,
            "variables": content.names,
            "log_returns": data.log_returns,
            "returns": data.returns,
            "missing": data.missing,
            "command": data.command,
        },
        "model": {
            "structure": content.structure,
            "parameters": len(table.names),
            "estimated": content.estimate,
            "log_likelihood": content.log_likelihood,
            "boundary": content.boundary,
            "total_score": _result(content.total),
        },
        "parameters": columns,
        "notes": table.notes,
        "heat_map": _heat(content.heat),
        "influence": _influence(content),
        "distances": {"beyond": content.distances.beyond, "top": [vars(row) for row in content.distances.top]},
        "cusum": _cusum(content.cusum),
        "breaks": [] if isinstance(content.cusum, Unavailable) else [_break(test) for test in content.cusum.breaks],
        "volatilities": _volatilities(content),
        "correlation": [row[: i + 1] for i, row in enumerate(content.volatilities.correlation)],  # the lower triangle
        "missing": dataclasses.asdict(content.missing),
        "alerts": dataclasses.asdict(content.alerts),
        "conditioning": dataclasses.asdict(content.conditioning),
    }


def _heat(heat: HeatMap | Unavailable) -> dict[str, Any]:
    if isinstance(heat, Unavailable):
        return {"unavailable": heat.reason}
    of = "scaled total score" if heat.diverging else "robust over classical variance"
    return {"of": of, "scale": "linear" if heat.diverging else "logarithmic", "values": heat.values}


def _result(found: TotalScore | Unavailable) -> dict[str, Any]:
    return {"unavailable": found.reason} if isinstance(found, Unavailable) else vars(found)


def _volatilities(content: Content) -> dict[str, Any]:
    found = content.volatilities
    robust = {} if found.robust_errors is None else {"robust_error": found.robust_errors}
    return {"variable": content.names, "standard_deviation": found.values} | robust


def _influence(content: Content) -> dict[str, Any]:
    found = content.influence
    return {"unavailable": found.reason} if isinstance(found, Unavailable) else {"top": [vars(row) for row in found.top]}


def _cusum(found: Cusum | Unavailable) -> dict[str, Any]:
    if isinstance(found, Unavailable):
        return {"unavailable": found.reason}
    left_out = {"path", "breaks", "row"}
    return {key: value for key, value in vars(found).items() if key not in left_out} | {"level": LEVEL}


def _break(test: Break) -> dict[str, Any]:
    left_out = {"path", "row"}
    fields = {key: value for key, value in vars(test).items() if key not in left_out}
    return fields | {"test": "supLM", "significant": test.p_value < LEVEL}


def _plain(value: Any) -> Any:
    """A value that JSON can represent; dates and other objects become text."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return 0 if value == 0 else value
    return value if value is None or isinstance(value, bool | int | str) else str(value)
