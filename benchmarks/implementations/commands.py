"""The command line on a table of returns with missing entries, run in this process."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import torch

import mvnjac
from benchmarks.generate_gaps import write
from benchmarks.workload import Data
from mvnjac.cli.commands import app


def score(data: Data):
    return lambda: _run(data, "score", "out.json")


def report(data: Data):
    return lambda: _run(data, "report", "out.html")


def fit_and_information(data: Data):
    """The part that both commands need: the estimate, and one information matrix."""
    x = torch.from_numpy(data["x"])

    def call() -> None:
        estimate = mvnjac.fit(x, missing="marginalise")
        mvnjac.fisher_information(estimate.mean, estimate.covariance, observed=~x.isnan()).matrix()

    return call


def _run(data: Data, command: str, output: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder, "table.csv"), Path(folder, output)
        write(table, data["x"])
        app([command, str(table), "--index", "Date", "--missing", "marginalise", "-o", str(out)], standalone_mode=False)
        text = out.read_text()
    found = json.loads(text) if output.endswith(".json") else json.loads(_block(text))["model"]
    return {"log_likelihood": found["log_likelihood"]}


def _block(page: str) -> str:
    """The JSON block of a report."""
    match = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert match is not None
    return match[1]
