"""Σ log p, its gradient and its information for rows that are distributed over processes, with one `all_reduce`.

Each process whitens its own rows and communicates n, Σ z and Σ z zᵀ (1 + d + d² numbers); for a structured covariance or
missing entries, it communicates the log-likelihood and its gradients. Rows are never communicated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor, Replicate, Shard

from mvnjac.covariance.base import Covariance
from mvnjac.errors import ArgumentError, MvnjacError
from mvnjac.gaussian import Gaussian
from mvnjac.inference.score_totals import ScoreSums
from mvnjac.information.functions import hessian_from
from mvnjac.information.operators import FisherInformation, Hessian
from mvnjac.statistics.pairwise import SumTuple
from mvnjac.statistics.serialization import made, taken
from mvnjac.whitening.sums import WhitenedMoments

Group = dist.ProcessGroup


def total(
    x: Float[Tensor, "n d"],
    mean: Float[Tensor, "d"] | None,
    covariance: Float[Tensor, "d d"] | Covariance,
    *,
    missing: str | None = None,
    group: Group | None = None,
) -> Total:
    """The log-likelihood, gradient and information of the rows of all processes.

    All processes must call this function, and all get the same result.

    Args:
        x: (n, d) the rows of this process; n may differ between processes and may be 0. Or a DTensor that is sharded by rows or
            replicated.
        mean, covariance: as in `mvnjac.jacobian`, the same on all processes; replicated DTensors are allowed.
        missing: as in `mvnjac.jacobian`.
        group: the processes; by default those of the device mesh of x, or all. Without torch.distributed, only this process.

    Returns:
        A `Total`.

    Raises:
        MvnjacError: the values of any process are invalid; the error is raised on all processes, so that none waits for
            another.

    Example:
        >>> import torch, mvnjac
        >>> result = mvnjac.distributed.total(torch.ones(3, 2), torch.zeros(2), torch.eye(2))
        >>> result.rows, result.sum()["mean"]
        (3, tensor([3., 3.]))
    """
    rows, groups = _shard(x, group)
    rows = rows.detach()
    gaussian = Gaussian(_plain(mean), _plain_covariance(covariance), missing=missing)
    score_sums, problem = ScoreSums(gaussian, None), None
    try:
        gaussian.model.validate(rows)
        sums = score_sums.of(score_sums.derivatives(rows))
    except MvnjacError as error:
        problem, sums = error, score_sums.of(score_sums.derivatives(gaussian.mean.new_zeros(0, gaussian.model.d)))
    return Total(gaussian, score_sums, _reduced(sums, problem, groups))


def log_prob(
    x: Float[Tensor, "n d"],
    mean: Float[Tensor, "d"] | None,
    covariance: Float[Tensor, "d d"] | Covariance,
    *,
    missing: str | None = None,
    group: Group | None = None,
) -> Float[Tensor, ""]:
    """Σ log p over the rows of all processes, as a loss whose backward pass needs no communication.

    The gradients on each process are those of all rows: do not use DistributedDataParallel, which averages gradients, for these
    parameters. There are no gradients with respect to x and no second-order gradients.

    Args:
        x, mean, covariance, missing, group: as in `total`.

    Returns:
        The sum, a scalar, differentiable with respect to mean and covariance.

    Raises:
        ArgumentError: x requires a gradient.

    Example:
        >>> import torch, mvnjac
        >>> mean = torch.zeros(2, requires_grad=True)
        >>> mvnjac.distributed.log_prob(torch.ones(3, 2), mean, torch.eye(2)).backward()
        >>> mean.grad
        tensor([3., 3.])
    """
    if x.requires_grad:
        raise ArgumentError(
            "distributed.log_prob: x requires a gradient, which is not supported. Pass x.detach(), or use mvnjac.log_prob."
        )
    parameters = covariance.parameters.values() if isinstance(covariance, Covariance) else [covariance]
    local_mean = None if mean is None else _local(mean)
    value: Tensor = _LogProb.apply(x, covariance, missing, group, local_mean, *(_local(t) for t in parameters))
    return value


class Total:
    """The sum of the log-densities of rows on several processes. Made by `total`.

    Attributes:
        rows: the number of rows on all processes.
        log_prob: Σ log p, a scalar.
    """

    def __init__(self, gaussian: Gaussian, score_sums: ScoreSums, sums: SumTuple) -> None:
        self._gaussian, self._score_sums, self._sums = gaussian, score_sums, sums
        self.rows = score_sums.rows(sums)
        self.log_prob = gaussian.mean.new_tensor(score_sums.log_likelihood(sums))

    def sum(self) -> dict[str, Tensor]:
        """The total score with respect to the mean and each parameter of the covariance, by name, as `Jacobian.sum()`."""
        gradients = self._score_sums.gradients(self._sums)
        return dict(zip(self._gaussian.model.arguments.default_names(), gradients, strict=True))

    def fisher_information(self) -> FisherInformation:
        """The expected information of one complete observation; for all rows, multiply it by `rows`."""
        return self._gaussian.fisher_information()

    def hessian(self) -> Hessian:
        """The second derivatives of Σ log p; the observed information is minus the Hessian.

        Raises:
            ArgumentError: the covariance has a structure, or entries are missing: the sums do not determine the Hessian.
        """
        model, main = self._gaussian.model, self._sums.parts[0]
        if not isinstance(main, WhitenedMoments):
            raise ArgumentError(
                "distributed: the Hessian is available for dense covariances and complete rows only; otherwise sum "
                "mvnjac.hessian(...).matrix() over the processes."
            )
        return hessian_from(model, model.arguments.default_names(), main)


class _LogProb(torch.autograd.Function):
    """Σ log p, whose gradients are computed together with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        covariance: Any,
        missing: str | None,
        group: Group | None,
        mean: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        sigma = covariance.at(list(parameters)) if isinstance(covariance, Covariance) else parameters[0]
        result = total(x, mean, sigma, missing=missing, group=group)
        ctx.has_mean = mean is not None
        ctx.save_for_backward(*result.sum().values())
        return result.log_prob.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        gradients = [grad * gradient for gradient in ctx.saved_tensors]
        return None, None, None, None, *([] if ctx.has_mean else [None]), *gradients


def _shard(x: Tensor, group: Group | None) -> tuple[Tensor, list[Group]]:
    """The rows of this process, and the process groups over which to sum."""
    if not isinstance(x, DTensor):
        initialized = dist.is_available() and dist.is_initialized()
        world = [dist.group.WORLD] if initialized and group is None else [group] if group is not None else []
        return x, [each for each in world if each is not None]
    groups = []
    for i, placement in enumerate(x.placements):
        if isinstance(placement, Shard) and placement.dim == 0:
            groups.append(x.device_mesh.get_group(i))
        elif not isinstance(placement, Replicate):
            raise ArgumentError(
                f"distributed: x is a DTensor placed as {placement}; shard it by rows, Shard(0), or replicate it."
            )
    return x.to_local(), groups


def _local(t: Tensor) -> Tensor:
    """A parameter as a plain tensor."""
    if not isinstance(t, DTensor):
        return t
    if not all(isinstance(placement, Replicate) for placement in t.placements):
        raise ArgumentError(f"distributed: a parameter is a DTensor placed as {t.placements}; replicate it: t.full_tensor().")
    return t.to_local()


def _plain(t: Tensor | None) -> Tensor | None:
    return None if t is None else _local(t).detach()


def _plain_covariance(covariance: Tensor | Covariance) -> Tensor | Covariance:
    if not isinstance(covariance, Covariance):
        return _local(covariance).detach()
    return covariance.at([_local(t).detach() for t in covariance.parameters.values()])


def _reduced(sums: SumTuple, problem: MvnjacError | None, groups: Sequence[Group]) -> SumTuple:
    """The sums over all processes, reduced as one vector that includes the number of processes with an error."""
    tensors: dict[str, Tensor] = {}
    form = taken(sums, tensors)
    problems = next(iter(tensors.values())).new_tensor(float(problem is not None), dtype=torch.float64)
    parts = [problems, *tensors.values()]
    flat = torch.cat([t.flatten().to(problems) for t in parts])
    for group in groups:
        dist.all_reduce(flat, group=group)
    if problem is not None:
        raise problem
    if float(flat[0]):
        raise ArgumentError(f"distributed: the rows of {int(flat[0])} other process(es) are invalid; see the errors there.")
    reduced_parts = flat.split([t.numel() for t in parts])[1:]
    reduced_tensors = {name: part.view(t.shape).to(t) for (name, t), part in zip(tensors.items(), reduced_parts, strict=True)}
    reduced: SumTuple = made(form, reduced_tensors)
    return reduced
