"""Draw docs/images/readme.png, the picture of the README: python tools/draw_readme_picture.py."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

import mvnjac
from mvnjac import inference

ROOT = Path(__file__).resolve().parent.parent
CURRENCIES = ["USD", "JPY", "GBP", "CHF", "SEK", "NOK", "CZK", "PLN", "AUD", "CAD", "NZD", "ISK", "RUB", "TRY", "BRL", "ZAR"]


def main() -> None:
    warnings.simplefilter("ignore", mvnjac.errors.TableWarning)
    rates = ROOT / "examples" / "data" / "ecb_reference_rates.csv.gz"
    returns = mvnjac.read_table(rates, columns=CURRENCIES, log_returns=True)
    fit = mvnjac.fit(returns, "low-rank:3", missing="marginalise")
    J = mvnjac.jacobian(returns, fit)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", width_ratios=(1, 1, 1.1))
    fit.plot(ax=left)
    fit.plot(ax=middle, kind="estimates", wrt="scale")
    inference.score_process(J, wrt="cov_diag[NOK]").sup_lm().plot(ax=right)
    left.set_title("correlations, from series with gaps")
    middle.set_title("volatilities, with standard errors")
    right.set_title("has the unique variance of NOK changed?")
    figure.savefig(ROOT / "docs" / "images" / "readme.png", dpi=110)


if __name__ == "__main__":
    main()
