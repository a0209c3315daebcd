"""The axes that pictures share."""

from __future__ import annotations

import pytest

from mvnjac.plots.axes import log_scale, new_axes


@pytest.mark.parametrize(("low", "high"), [(1.5, 5.3), (2.0, 2.6), (0.3, 40.0), (1e-6, 3.0), (11.0, 98.0)])
def test_a_logarithmic_axis_has_numbers(low: float, high: float) -> None:
    ax = new_axes(None)
    log_scale(ax, low, high)
    ticks = [tick for tick in ax.get_yticks() if low <= tick <= high]
    assert len(ticks) >= 2
    assert all(ax.yaxis.get_major_formatter()(tick) for tick in ticks)
