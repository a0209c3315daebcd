"""mvnjac: the Jacobian of the multivariate normal log-density, in PyTorch.

Public names are loaded on first use, so that ``import mvnjac`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mvnjac._version import __version__ as __version__
from mvnjac.imports import LazyNames

if TYPE_CHECKING:
    from mvnjac import distributed as distributed
    from mvnjac import distributions as distributions
    from mvnjac import errors as errors
    from mvnjac import inference as inference
    from mvnjac.autodiff.log_prob import log_prob as log_prob
    from mvnjac.covariance.base import Covariance as Covariance
    from mvnjac.covariance.parametrisations.cholesky import Cholesky as Cholesky
    from mvnjac.covariance.parametrisations.dense import Dense as Dense
    from mvnjac.covariance.parametrisations.inverse_cholesky import InverseCholesky as InverseCholesky
    from mvnjac.covariance.parametrisations.log_cholesky import LogCholesky as LogCholesky
    from mvnjac.covariance.parametrisations.precision import Precision as Precision
    from mvnjac.covariance.parametrisations.precision_cholesky import PrecisionCholesky as PrecisionCholesky
    from mvnjac.covariance.parametrisations.scale_correlation import ScaleCorrelation as ScaleCorrelation
    from mvnjac.covariance.structured.autoregressive import Autoregressive as Autoregressive
    from mvnjac.covariance.structured.banded_precision import BandedPrecision as BandedPrecision
    from mvnjac.covariance.structured.block_diagonal import BlockDiagonal as BlockDiagonal
    from mvnjac.covariance.structured.compound_symmetric import CompoundSymmetric as CompoundSymmetric
    from mvnjac.covariance.structured.diagonal import Diagonal as Diagonal
    from mvnjac.covariance.structured.isotropic import Isotropic as Isotropic
    from mvnjac.covariance.structured.kronecker import Kronecker as Kronecker
    from mvnjac.covariance.structured.low_rank import LowRank as LowRank
    from mvnjac.covariance.structured.parametric import Parametric as Parametric
    from mvnjac.covariance.structured.toeplitz import Toeplitz as Toeplitz
    from mvnjac.errors import MvnjacError as MvnjacError
    from mvnjac.estimation.fit import fit as fit
    from mvnjac.estimation.fit_plots import plot_correlation as plot_correlation
    from mvnjac.estimation.model_file import load as load
    from mvnjac.estimation.result import Fit as Fit
    from mvnjac.gaussian import Gaussian as Gaussian
    from mvnjac.information.functions import fisher_information as fisher_information
    from mvnjac.information.functions import hessian as hessian
    from mvnjac.information.functions import natural_gradient as natural_gradient
    from mvnjac.kernels.config import show_config as show_config
    from mvnjac.kernels.huge_pages import use_huge_pages as use_huge_pages
    from mvnjac.parameters.coordinates import unvech as unvech
    from mvnjac.parameters.coordinates import vech as vech
    from mvnjac.report import write_report as write_report
    from mvnjac.score.jacobian import Jacobian as Jacobian
    from mvnjac.score.jacobian import jacobian as jacobian
    from mvnjac.tables.dataframes import Observations as Observations
    from mvnjac.tables.dataframes import from_table as from_table
    from mvnjac.tables.read_table import read_table as read_table

_MODULES = {
    "jacobian": "score.jacobian",
    "Jacobian": "score.jacobian",
    "Gaussian": "gaussian",
    "log_prob": "autodiff.log_prob",
    "hessian": "information.functions",
    "fisher_information": "information.functions",
    "natural_gradient": "information.functions",
    "fit": "estimation.fit",
    "Fit": "estimation.result",
    "load": "estimation.model_file",
    "plot_correlation": "estimation.fit_plots",
    "vech": "parameters.coordinates",
    "unvech": "parameters.coordinates",
    "from_table": "tables.dataframes",
    "Observations": "tables.dataframes",
    "read_table": "tables.read_table",
    "write_report": "report",
    "Covariance": "covariance.base",
    "MvnjacError": "errors",
    "show_config": "kernels.config",
    "use_huge_pages": "kernels.huge_pages",
}

_LAZY = LazyNames(__name__, _MODULES)

#: public modules, such as mvnjac.distributions
_SUBMODULES = ("covariance", "distributed", "distributions", "errors", "inference", "testing")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"mvnjac.{name}")
    if name[:1].isupper() and name not in _MODULES and name in _structures():
        globals()[name] = _structures()[name]  # later accesses do not call this function
        return _structures()[name]
    return _LAZY.load(name)


def __dir__() -> list[str]:
    return _LAZY.names(*_structures(), "__version__", *_SUBMODULES)


def _structures() -> dict[str, Any]:
    """The covariance structures, one module each."""
    found: dict[str, Any] = importlib.import_module("mvnjac.covariance").structures()
    return found
