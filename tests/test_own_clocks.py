"""Structural change where variables are not observed all the time: sizes, power, dates, and the covariance that is used."""

from __future__ import annotations

import pytest
import torch

import mvnjac
from mvnjac import inference
from tests import breaks

TESTS = ("sup_lm", "double_max", "nyblom_hansen")
#: at 5 % the rank of a statistic among so many simulated ones decides as exactly as among 999
MULTIPLIERS = 219


def rejections(design: str, runs: range, n: int = 2000, lag: int = 0) -> dict[str, float]:
    """The share of p-values of 5 % and below, by test: of everything, of each variable's group and of each column."""
    found: dict[str, int] = {}
    for first in range(runs.start, runs.stop, 50):
        x, mean, covariance = breaks.draws(design, min(50, runs.stop - first), n, first)
        for i in range(len(x)):
            J = mvnjac.jacobian(x[i], mean[i], covariance[i], missing="marginalise")
            process = inference.score_process(J, lag=lag, multipliers=MULTIPLIERS, seed=10**6 + first + i)
            groups = {"all": process.columns} | {f"variable {name}": own for name, own in process.variables.items()}
            for name, columns in (groups | {column: (column,) for column in process.columns}).items():
                some = process.select(columns)
                for kind in TESTS:
                    p = getattr(some, kind)().p_value
                    found[f"{kind} {name}"] = found.get(f"{kind} {name}", 0) + (p <= 0.05)
    return {name: count / len(runs) for name, count in found.items()}


@pytest.mark.long
@pytest.mark.parametrize("design", breaks.DESIGNS)
def test_the_size_of_each_test(design: str) -> None:
    sizes = rejections(design, range(2000))
    assert len(sizes) == 39
    assert {name: size for name, size in sizes.items() if not 0.03 <= size <= 0.07} == {}


if __name__ == "__main__":  # the table in docs/inference.md
    import sys

    for name, size in rejections(sys.argv[1], range(int(sys.argv[2]), int(sys.argv[3]))).items():
        print(f"{name},{size}")
