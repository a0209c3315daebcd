"""A scikit-learn estimator of a multivariate normal distribution, whose scores are features (needs scikit-learn)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from mvnjac.covariance.estimation import LOWER
from mvnjac.errors import ArgumentError
from mvnjac.estimation.fit import fit
from mvnjac.estimation.maximum import fit_sample
from mvnjac.estimation.result import Fit
from mvnjac.estimation.structure import choose
from mvnjac.score.jacobian import Jacobian
from mvnjac.statistics.sufficient import Accumulator


class GaussianModel(DensityMixin, TransformerMixin, BaseEstimator):
    """A multivariate normal distribution, estimated by maximum likelihood; `transform` returns scores (Fisher vectors).

    Args:
        structure: the structure of the covariance, as in `mvnjac.fit`: "dense", "diagonal", "low-rank:5", …
        missing: "marginalise": NaN is a missing entry.
        wrt: the columns of `transform`, as in `Jacobian.matrix`; None: the mean and the parameters of the covariance.
        max_iterations: the largest number of iterations, if there is no closed form.
        lower: the lower bound of the unique variances of a factor model, as in `mvnjac.fit`.

    Attributes:
        fit_: the `mvnjac.Fit`.
        mean_, covariance_: the estimates as arrays (d,) and (d, d).
        n_iter_, converged_: the number of iterations, and whether the search has converged.

    Example:
        >>> import numpy as np
        >>> from mvnjac.sklearn import GaussianModel
        >>> X = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]])
        >>> model = GaussianModel().fit(X)
        >>> model.transform(X).shape, model.mean_
        ((4, 5), array([1.5, 3. ]))
    """

    _accumulator: Accumulator

    def __init__(
        self,
        structure: Any = "dense",
        *,
        missing: str | None = None,
        wrt: Any = None,
        max_iterations: int = 1000,
        lower: float = LOWER,
    ) -> None:
        self.structure = structure
        self.missing = missing
        self.wrt = wrt
        self.max_iterations = max_iterations
        self.lower = lower

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> GaussianModel:
        """Estimate the parameters from the rows X (n, d). A row with sample_weight 2 counts as two rows."""
        rows = self._rows(X, reset=True)
        self.__dict__.pop("_accumulator", None)
        weights = None
        if sample_weight is not None:
            checked = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            weights = torch.tensor(checked, dtype=torch.float64, device="cpu")
        with _sklearn_messages(rows):
            result = fit(
                rows,
                self.structure,
                missing=self.missing,
                weights=weights,
                names=self._names(),
                max_iterations=self.max_iterations,
                lower=self.lower,
            )
        return self._set_fit(result)

    def partial_fit(self, X: Any, y: None = None) -> GaussianModel:
        """Update the estimate with further rows; for each pattern of missing entries, at most 2d rows are stored."""
        first = not hasattr(self, "_accumulator")
        rows = self._rows(X, reset=first)
        accumulator = Accumulator(rows.shape[1]) if first else self._accumulator
        accumulator.add(rows[~rows.isnan().all(-1)])
        names = self._names()
        sample = accumulator.sample(partial(_variable, names), "partial_fit")
        if sample is None:
            raise ValueError("partial_fit: all entries of X are missing.")
        with _sklearn_messages(rows):
            result = fit_sample(sample, choose(self.structure), names, self.missing, self.max_iterations, None, self.lower)
        self._accumulator = accumulator
        return self._set_fit(result)

    def score_samples(self, X: Any) -> np.ndarray:
        """The log-density of each row, (n,)."""
        return self._jacobian(X).log_prob.numpy()

    def score(self, X: Any, y: None = None) -> float:
        """The mean log-density of the rows."""
        return float(self.score_samples(X).mean())

    def transform(self, X: Any) -> np.ndarray:
        """The scores of each row, (n, p)."""
        return self._jacobian(X).matrix(self.wrt).numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns of `transform`."""
        check_is_fitted(self, "fit_")
        given = getattr(self, "feature_names_in_", None)
        if input_features is not None:
            if given is not None and list(input_features) != list(given):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(input_features) != self.n_features_in_:
                raise ValueError(f"input_features should have length equal to number of features ({self.n_features_in_}).")
        nothing = torch.zeros(1, len(self.mean_), dtype=torch.float64, device="cpu")
        return np.array(self.fit_.gaussian.jacobian(nothing).columns(self.wrt), dtype=object)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Random rows from the estimated distribution, (n_samples, d)."""
        check_is_fitted(self, "fit_")
        normal = check_random_state(random_state).standard_normal((n_samples, len(self.mean_)))
        return self.mean_ + normal @ np.linalg.cholesky(self.covariance_).T

    def _rows(self, X: Any, reset: bool) -> Tensor:
        finite = "allow-nan" if self.missing else True
        array = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite=finite, ensure_min_samples=2 if reset else 1
        )
        return torch.tensor(array, dtype=torch.float64, device="cpu")  # a copy, because the array may be read-only

    def _jacobian(self, X: Any) -> Jacobian:
        check_is_fitted(self, "fit_")
        return self.fit_.gaussian.jacobian(self._rows(X, reset=False))

    def _names(self) -> list[str] | None:
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else [str(name) for name in names]

    def _set_fit(self, result: Fit) -> GaussianModel:
        self.fit_ = result
        self.mean_, self.covariance_ = result.mean.numpy(), result.gaussian.parameter("covariance_matrix").numpy()
        self.n_iter_, self.converged_ = max(result.iterations, 1), result.converged
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing is not None
        return tags


@contextlib.contextmanager
def _sklearn_messages(rows: Tensor) -> Iterator[None]:
    """Adds the numbers of rows and columns, in the form that scikit-learn's checks expect, to errors about too few of them."""
    try:
        yield
    except ArgumentError as error:
        n, d = rows.shape
        few = [f"n_samples = {n}"] * (n == 1) + [f"n_features = {d}"] * (d == 1)
        if not few:
            raise
        raise type(error)(f"{error} ({', '.join(few)})") from error


def _variable(names: list[str] | None, i: int) -> str:
    return f"variable {i}" if names is None else repr(names[i])
