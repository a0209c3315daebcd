"""Statistical inference on estimates: covariances and standard errors, tests, influential rows, structural change.

The package may use `gaussian` and the layers below it. Interface for other packages: the public names below, which are loaded
when first used; `estimating_functions.EstimatingFunctions`, on which the others are built; `score_totals.ScoreSums`; and
`standard_errors.KINDS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mvnjac.imports import LazyNames

if TYPE_CHECKING:
    from mvnjac.inference.break_test import BreakTest as BreakTest
    from mvnjac.inference.cumulative_scores import score_process as score_process
    from mvnjac.inference.delta import delta_method as delta_method
    from mvnjac.inference.estimate_covariances import Estimates as Estimates
    from mvnjac.inference.estimate_covariances import covariance_of_estimates as covariance_of_estimates
    from mvnjac.inference.hac import scores_covariance as scores_covariance
    from mvnjac.inference.influential_rows import Influence as Influence
    from mvnjac.inference.influential_rows import influence as influence
    from mvnjac.inference.information_matrix import InformationMatrixTest as InformationMatrixTest
    from mvnjac.inference.information_matrix import information_matrix_test as information_matrix_test
    from mvnjac.inference.likelihood_ratio import LikelihoodRatioTest as LikelihoodRatioTest
    from mvnjac.inference.likelihood_ratio import likelihood_ratio_test as likelihood_ratio_test
    from mvnjac.inference.score_tests import ScoreTest as ScoreTest
    from mvnjac.inference.score_tests import score_test as score_test
    from mvnjac.inference.structural_change import ScoreProcess as ScoreProcess

_LAZY = LazyNames(
    __name__,
    {
        "covariance_of_estimates": "inference.estimate_covariances",
        "Estimates": "inference.estimate_covariances",
        "delta_method": "inference.delta",
        "scores_covariance": "inference.hac",
        "score_test": "inference.score_tests",
        "ScoreTest": "inference.score_tests",
        "information_matrix_test": "inference.information_matrix",
        "InformationMatrixTest": "inference.information_matrix",
        "likelihood_ratio_test": "inference.likelihood_ratio",
        "LikelihoodRatioTest": "inference.likelihood_ratio",
        "influence": "inference.influential_rows",
        "Influence": "inference.influential_rows",
        "score_process": "inference.cumulative_scores",
        "ScoreProcess": "inference.structural_change",
        "BreakTest": "inference.break_test",
    },
)


def __getattr__(name: str) -> Any:
    return _LAZY.load(name)


def __dir__() -> list[str]:
    return _LAZY.names()
