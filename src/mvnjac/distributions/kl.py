"""Kullback-Leibler divergences between multivariate normal distributions of mvnjac and of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import register_kl

from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisations.cholesky import Cholesky
from mvnjac.covariance.structured.low_rank import LowRankFactor
from mvnjac.distributions.base import Normal, columns
from mvnjac.errors import DeviceError, ShapeError
from mvnjac.model.arguments import parse
from mvnjac.model.model import Model
from mvnjac.model.torch_distributions import parameters, unexpanded
from mvnjac.tensors.broadcasting import RowLayout, batch_shape, broadcast
from mvnjac.whitening.factor import Factor


def _kl_divergence(p: Any, q: Any) -> Tensor:
    """½ (tr Σq⁻¹ Σp + ‖Lq⁻¹(µp − µq)‖² − d + log det Σq − log det Σp)."""
    if p.event_shape != q.event_shape:
        raise ShapeError(f"kl_divergence: the event shapes {tuple(p.event_shape)} and {tuple(q.event_shape)} differ.")
    p_model, q_model = _model(p), _model(q)
    if p_model.mean.device != q_model.mean.device:
        raise DeviceError(f"kl_divergence: the first is on {p_model.mean.device} but the second is on {q_model.mean.device}.")
    p_factor, q_factor = p_model.prepared()[1], q_model.prepared()[1]
    with p_model.arithmetic(), q_model.arithmetic():
        distance = _squared_norms(q_factor, (p.loc - q.loc).to(q_model.dtype))
        determinants = q_factor.log_det - p_factor.log_det
        result = 0.5 * (_trace(p_factor, q_factor, q_model.dtype) + distance - p_model.d + determinants)
    return result.expand(broadcast(result.shape, p.batch_shape, q.batch_shape))


def _model(dist: Any) -> Model:
    if isinstance(dist, Normal):
        return dist._current()
    covariance: Covariance
    if isinstance(dist, torch.distributions.LowRankMultivariateNormal):
        covariance = parameters(dist)[1]
    else:
        covariance = Cholesky(unexpanded(dist.scale_tril, 2))  # torch has factorised it already
    return Model(parse("kl_divergence", dist.loc.to(covariance.dtype), covariance, check=False))


def _trace(p: Factor, q: Factor, dtype: torch.dtype) -> Tensor:
    """tr Σq⁻¹ Σp: the sum of the squares of the columns of S, with Σp = S Sᵀ + diag(v), whitened by q; plus Σ vᵢ (Σq⁻¹)ᵢᵢ."""
    S, diagonal = columns(p)
    S = S.to(dtype)
    full = broadcast(p.batch, q.batch)
    trace = _squared_norms(q, S.expand((*full, *S.shape[-2:])).movedim(-1, 0)).sum(0)
    if diagonal is None:
        return trace
    precisions = q.precision_diag if isinstance(q, LowRankFactor) else q.dense().precision_matrix.diagonal(dim1=-2, dim2=-1)
    return trace + (diagonal * precisions).sum(-1)


def _squared_norms(factor: Factor, rows: Tensor) -> Tensor:
    """rᵀ Σ⁻¹ r for each row r."""
    layout = RowLayout(broadcast(batch_shape(rows, 1), factor.batch), factor.batch)
    return layout.unfold(factor.whiten(layout.fold(rows), layout).square().sum(-1), 0)


register_kl(Normal, Normal)(_kl_divergence)
for _torch in (torch.distributions.MultivariateNormal, torch.distributions.LowRankMultivariateNormal):
    register_kl(Normal, _torch)(_kl_divergence)
    register_kl(_torch, Normal)(_kl_divergence)
