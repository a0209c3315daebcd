"""The examples run and give correct results."""

from __future__ import annotations

from pathlib import Path

from examples import fit

ROOT = Path(__file__).resolve().parent.parent


def test_all_methods_reach_the_same_optimum(capsys) -> None:
    assert fit.main(ROOT / "examples" / "data" / "ecb_reference_rates.csv.gz") < 1e-6
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["natural gradient", "L-BFGS, mvnjac", "L-BFGS, torch.distributions"]
