"""torch.distributions and autograd, with and without validation; mvnjac validates its arguments."""

from __future__ import annotations

from functools import partial

from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from benchmarks.implementations.operands import leaves, tensors
from benchmarks.workload import Data, Result


def _total(data: Data, validate: bool):
    x, *parameters = tensors(data)

    def call() -> Result:
        mean, covariance = leaves(*parameters)
        value = MultivariateNormal(mean, covariance, validate_args=validate).log_prob(x).sum()
        value.backward()
        return {"value": value, "mean": mean.grad, "covariance": covariance.grad}

    return call


def _one_per_row(data: Data, validate: bool):
    x, *parameters = tensors(data)

    def call() -> Result:
        mean, covariance = leaves(*parameters)
        value = MultivariateNormal(mean, covariance, validate_args=validate).log_prob(x)
        value.sum().backward()
        return {"value": value, "mean": mean.grad, "covariance": covariance.grad}

    return call


def _low_rank(data: Data, validate: bool):
    x, *parameters = tensors(data)

    def call() -> Result:
        mean, W, v = leaves(*parameters)
        value = LowRankMultivariateNormal(mean, W, v, validate_args=validate).log_prob(x).sum()
        value.backward()
        return {"value": value, "mean": mean.grad, "cov_factor": W.grad, "cov_diag": v.grad}

    return call


def _log_prob(data: Data, validate: bool):
    x, *parameters = tensors(data)
    return lambda: {"value": MultivariateNormal(*parameters, validate_args=validate).log_prob(x)}


def _prepared_log_prob(data: Data, validate: bool):
    x, *parameters = tensors(data)
    gaussian = MultivariateNormal(*parameters, validate_args=validate)
    return lambda: {"value": gaussian.log_prob(x)}


total, total_unvalidated = partial(_total, validate=True), partial(_total, validate=False)
one_per_row, one_per_row_unvalidated = partial(_one_per_row, validate=True), partial(_one_per_row, validate=False)
low_rank, low_rank_unvalidated = partial(_low_rank, validate=True), partial(_low_rank, validate=False)
log_prob, log_prob_unvalidated = partial(_log_prob, validate=True), partial(_log_prob, validate=False)
prepared_log_prob = partial(_prepared_log_prob, validate=False)
