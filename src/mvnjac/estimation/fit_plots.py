"""Charts of an estimate: its correlations, and the estimates with confidence intervals. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mvnjac.errors import ArgumentError, ShapeError, counted
from mvnjac.gaussian import Gaussian
from mvnjac.linalg.correlation import correlation_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("correlation", "estimates")
#: the most estimates in one chart
_MOST = 200
#: the longest name of an estimate, in letters
_LONGEST = 48
#: height of a line and of the rest of a chart, in inches
_LINE, _REST = 0.24, 1.0


def plot_correlation(fit: Any, ax: Axes | None = None) -> Axes:
    """Draw the correlation matrix of an estimate or of a Gaussian: the lower triangle as a map, with a colour bar.

    Args:
        fit: a `Fit`, or a `Gaussian` without batch dimensions.
        ax: the matplotlib axes to draw on; None: those of a new pyplot figure.

    Returns:
        The axes.

    Raises:
        ArgumentError: `fit` is neither a Fit nor a Gaussian.
        ShapeError: the Gaussian has batch dimensions.

    Example:
        >>> import matplotlib
        >>> matplotlib.use("agg")
        >>> import torch, mvnjac
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> ax = mvnjac.plot_correlation(mvnjac.fit(x, names=["USD", "CHF", "JPY"]))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['USD', 'CHF', 'JPY']
    """
    from mvnjac.plots.axes import new_axes
    from mvnjac.plots.matrices import correlations, draw_matrix

    gaussian = getattr(fit, "gaussian", fit)
    if not isinstance(gaussian, Gaussian):
        raise ArgumentError(f"plot_correlation: got a {type(fit).__name__}; expected a Fit or a Gaussian.")
    if gaussian.model.batch:
        raise ShapeError(
            f"plot_correlation: the Gaussian has batch dimensions {tuple(gaussian.model.batch)}; expected a single Gaussian."
        )
    values = correlation_matrix(gaussian.model.parameter("covariance_matrix").detach().double()).cpu().numpy()
    names = gaussian.names or [str(i) for i in range(len(values))]
    side = min(3.0 + 0.36 * len(names), 11.0)
    return draw_matrix(new_axes(ax, (side + 1, side)), values, names, correlations(), bar_title="correlation")


def plot_fit(
    gaussian: Gaussian,
    errors: Callable[[Sequence[str]], Mapping[str, Tensor]],
    ax: Axes | None,
    kind: str,
    wrt: str | Sequence[str] | None,
    level: float,
) -> Axes:
    """The implementation of `Fit.plot`; `errors` gives the standard errors of parameters by their names."""
    if kind not in KINDS:
        raise ArgumentError(f"plot: kind is {kind!r}; expected 'correlation' or 'estimates'.")
    if kind == "estimates":
        return _plot_estimates(gaussian, errors, ax, wrt, level)
    if wrt is not None:
        raise ArgumentError("plot: wrt has no meaning for kind='correlation'; it selects the parameters of kind='estimates'.")
    return plot_correlation(gaussian, ax)


def _plot_estimates(
    gaussian: Gaussian,
    errors: Callable[[Sequence[str]], Mapping[str, Tensor]],
    ax: Axes | None,
    wrt: str | Sequence[str] | None,
    level: float,
) -> Axes:
    from mvnjac.plots.axes import new_axes
    from mvnjac.plots.estimates import draw_intervals

    if not 0 < level < 1:
        raise ArgumentError(f"plot: level is {level!r}; expected a probability between 0 and 1.")
    model = gaussian.model
    selection = model.arguments.select(wrt)
    if selection.size > _MOST:
        raise ArgumentError(
            f"plot: {counted(selection.size, 'estimate')} are selected, but a chart can show at most {_MOST}: select fewer with wrt=, "
            "such as wrt='mean'."
        )
    names = [part.name for part in selection.parts]
    found = errors(names)
    values = {name: model.parameter(name).detach() for name in names}
    unknown = {name: torch.full_like(values[name], torch.nan) for name in names}
    estimates = selection.pack({name: _flat(model, name, value) for name, value in values.items()})
    deviations = selection.pack({name: _flat(model, name, found.get(name, unknown[name])) for name in names})
    half = NormalDist().inv_cdf(0.5 + 0.5 * level) * deviations
    arrays = [each.double().cpu().numpy() for each in (estimates, estimates - half, estimates + half)]
    words = model.arguments.descriptions(selection)
    axes = new_axes(ax, (8.0, _REST + _LINE * len(words)))
    draw_intervals(axes, words, *arrays, longest_name=_LONGEST)
    axes.set_xlabel(f"estimate with its {100 * level:.4g}% confidence interval")
    return axes


def _flat(model: Any, name: str, value: Tensor) -> Tensor:
    """The mean of matrices as a vector, as coordinates have it; other parameters are unchanged."""
    return value.reshape(-1) if name == "mean" else value
