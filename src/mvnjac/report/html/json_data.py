"""The numbers of a report as JSON in its page: <script type="application/json" id="mvnjac-data">."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from mvnjac._version import __version__
from mvnjac.report.analysis.content import Content
from mvnjac.report.analysis.estimates_table import HeatMap
from mvnjac.report.analysis.stability import LEVEL, Break, Cusum
from mvnjac.report.analysis.unavailable import Unavailable
from mvnjac.report.html.markup import Markup


def data_block(content: Content) -> Markup:
    """The JSON block. <, > and & are escaped, so that no text can end the block; NaN is null."""
    written = json.dumps(_plain(_record(content)), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="mvnjac-data">{written}</script>')


def _record(content: Content) -> dict[str, Any]:
    data, table = content.data, content.parameters
    rows = zip(table.names, *table.columns.values(), strict=True)
    headings = ["parameter", *(heading.replace(" ", "_") for heading in table.columns)]
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
            "missing": data.missing,
        },
        "model": {
            "structure": content.structure,
            "parameters": len(table.names),
            "estimated": content.estimate,
            "log_likelihood": content.log_likelihood,
            "total_score": dataclasses.asdict(content.total),
        },
        "parameters": [dict(zip(headings, row, strict=True)) for row in rows],
        "notes": table.notes,
        "heat_map": _heat(content.heat),
        "influence": _influence(content),
        "cusum": _cusum(content.cusum),
        "breaks": [] if isinstance(content.cusum, Unavailable) else [_break(test) for test in content.cusum.breaks],
        "missing": dataclasses.asdict(content.missing),
        "conditioning": dataclasses.asdict(content.conditioning),
    }


def _heat(heat: HeatMap | Unavailable) -> dict[str, Any]:
    if isinstance(heat, Unavailable):
        return {"unavailable": heat.reason}
    return {"of": "scaled total score" if heat.diverging else "robust over classical variance", "values": heat.values}


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
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
