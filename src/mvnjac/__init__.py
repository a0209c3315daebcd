"""mvnjac: the Jacobian of the multivariate normal log-density, in PyTorch.

The public names are loaded when first used: ``import mvnjac`` alone does not import torch.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from mvnjac._version import __version__ as __version__

if TYPE_CHECKING:
    from mvnjac import distributed as distributed
    from mvnjac import distributions as distributions
    from mvnjac import errors as errors
    from mvnjac import inference as inference
    from mvnjac.config import show_config as show_config
    from mvnjac.coordinates import unvech as unvech
    from mvnjac.coordinates import vech as vech
    from mvnjac.covariance.autoregressive import Autoregressive as Autoregressive
    from mvnjac.covariance.banded_precision import BandedPrecision as BandedPrecision
    from mvnjac.covariance.base import Covariance as Covariance
    from mvnjac.covariance.block_diagonal import BlockDiagonal as BlockDiagonal
    from mvnjac.covariance.cholesky import Cholesky as Cholesky
    from mvnjac.covariance.compound_symmetric import CompoundSymmetric as CompoundSymmetric
    from mvnjac.covariance.dense import Dense as Dense
    from mvnjac.covariance.diagonal import Diagonal as Diagonal
    from mvnjac.covariance.inverse_cholesky import InverseCholesky as InverseCholesky
    from mvnjac.covariance.isotropic import Isotropic as Isotropic
    from mvnjac.covariance.kronecker import Kronecker as Kronecker
    from mvnjac.covariance.log_cholesky import LogCholesky as LogCholesky
    from mvnjac.covariance.low_rank import LowRank as LowRank
    from mvnjac.covariance.parametric import Parametric as Parametric
    from mvnjac.covariance.precision import Precision as Precision
    from mvnjac.covariance.precision_cholesky import PrecisionCholesky as PrecisionCholesky
    from mvnjac.covariance.scale_correlation import ScaleCorrelation as ScaleCorrelation
    from mvnjac.covariance.toeplitz import Toeplitz as Toeplitz
    from mvnjac.errors import MvnjacError as MvnjacError
    from mvnjac.frames import Observations as Observations
    from mvnjac.frames import from_table as from_table
    from mvnjac.gaussian import Gaussian as Gaussian
    from mvnjac.inference.fit import fit as fit
    from mvnjac.inference.result import Fit as Fit
    from mvnjac.information import fisher_information as fisher_information
    from mvnjac.information import hessian as hessian
    from mvnjac.information import natural_gradient as natural_gradient
    from mvnjac.jacobian import Jacobian as Jacobian
    from mvnjac.jacobian import jacobian as jacobian
    from mvnjac.log_prob import log_prob as log_prob
    from mvnjac.memory import use_huge_pages as use_huge_pages
    from mvnjac.model_file import load as load

_HOMES = {
    "jacobian": "jacobian",
    "Jacobian": "jacobian",
    "Gaussian": "gaussian",
    "log_prob": "log_prob",
    "hessian": "information",
    "fisher_information": "information",
    "natural_gradient": "information",
    "fit": "inference.fit",
    "Fit": "inference.result",
    "load": "model_file",
    "vech": "coordinates",
    "unvech": "coordinates",
    "from_table": "frames",
    "Observations": "frames",
    "Covariance": "covariance.base",
    "MvnjacError": "errors",
    "show_config": "config",
    "use_huge_pages": "memory",
}

#: modules that are used by their own name: mvnjac.distributions.MultivariateNormal
_SUBMODULES = ("distributed", "distributions", "errors", "inference")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    value = _load(name)
    globals()[name] = value  # the next access is a plain one
    return value


def _load(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"mvnjac.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"mvnjac.{_HOMES[name]}"), name)
    if name[:1].isupper():  # structures are found by themselves: one file each
        structures = importlib.import_module("mvnjac.covariance").structures()
        if name in structures:
            return structures[name]
    raise AttributeError(f"module 'mvnjac' has no attribute {name!r}")


class _Package(types.ModuleType):
    """The import system binds a submodule to its name here; `jacobian` and `log_prob` are the functions, not their files."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and name in _HOMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    structures = importlib.import_module("mvnjac.covariance").structures()
    return sorted([*_HOMES, *structures, "__version__", *_SUBMODULES])
