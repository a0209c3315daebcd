"""Training at scale: Σ log p, its gradient and information, of rows that lie on many processes, with one `all_reduce`.

Each process whitens its own rows; what travels are n, Σ z and Σ z zᵀ (1 + d + d² numbers), or, of a structure or of rows with missing
entries, the log-likelihood and its gradients; never a row.
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
    """Value, gradient and information of all processes' rows together; every process calls it, and gets the same.

    Args:
        x: (n, d) this process's own rows; n may differ from process to process, and be 0. Or a DTensor that is sharded by rows, or
            replicated.
        mean, covariance: as in `mvnjac.jacobian`, the same on every process; a replicated DTensor counts as the tensor that it is.
        missing: as in `mvnjac.jacobian`.
        group: the processes; default: of x's device mesh, else all. Without torch.distributed: this process alone.

    Returns:
        A `Total`.

    Raises:
        MvnjacError: numbers that are no density, on whichever process: all of them raise, none waits for another.

    Example:
        >>> import torch, mvnjac
        >>> result = mvnjac.distributed.total(torch.ones(3, 2), torch.zeros(2), torch.eye(2))
        >>> result.rows, result.sum()["mean"]
        (3, tensor([3., 3.]))
    """
    rows, groups = _shard(x, group)
    rows = rows.detach()
    gaussian = Gaussian(_plain(mean), _plain_covariance(covariance), missing=missing)
    kernel, problem = ScoreSums(gaussian, None), None
    try:
        gaussian.model.validate(rows)
        sums = kernel.of(kernel.derivatives(rows))
    except MvnjacError as error:
        problem, sums = error, kernel.of(kernel.derivatives(gaussian.mean.new_zeros(0, gaussian.model.d)))
    return Total(gaussian, kernel, _reduced(sums, problem, groups))


def log_prob(
    x: Float[Tensor, "n d"],
    mean: Float[Tensor, "d"] | None,
    covariance: Float[Tensor, "d d"] | Covariance,
    *,
    missing: str | None = None,
    group: Group | None = None,
) -> Float[Tensor, ""]:
    """Σ log p over all processes' rows: a loss whose backward pass by mean and covariance speaks to nobody.

    The arguments are those of `total`. Every process's gradient is that of all rows already: DistributedDataParallel, which averages
    gradients, is neither needed nor wanted for these parameters. x is data: no gradient goes there, and none is of second order.

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
            "distributed.log_prob: x requires a gradient; it is data here. Pass x.detach(), or use mvnjac.log_prob."
        )
    parameters = covariance.parameters.values() if isinstance(covariance, Covariance) else [covariance]
    whole = None if mean is None else _whole(mean)
    value: Tensor = _LogProb.apply(x, covariance, missing, group, whole, *(_whole(t) for t in parameters))
    return value


class Total:
    """n rows' log-density, in sum. Made by `total`.

    Attributes:
        rows: how many, on all processes.
        log_prob: Σ log p.
    """

    def __init__(self, gaussian: Gaussian, kernel: ScoreSums, sums: SumTuple) -> None:
        self._gaussian, self._kernel, self._sums = gaussian, kernel, sums
        self.rows = kernel.rows(sums)
        self.log_prob = gaussian.mean.new_tensor(kernel.log_likelihood(sums))

    def sum(self) -> dict[str, Tensor]:
        """The total score by the mean and each of the covariance's parameters, in its own shape: `Jacobian.sum()`."""
        gradients = self._kernel.gradients(self._sums)
        return dict(zip(self._gaussian.model.arguments.default_names(), gradients, strict=True))

    def fisher_information(self) -> FisherInformation:
        """The expected information of one complete observation; that of all rows is `rows` times it."""
        return self._gaussian.fisher_information()

    def hessian(self) -> Hessian:
        """The second derivatives of Σ log p; minus these are the observed information.

        Raises:
            ArgumentError: of a structure, or of rows with missing entries, the sums say nothing about it.
        """
        model, main = self._gaussian.model, self._sums.parts[0]
        if not isinstance(main, WhitenedMoments):
            raise ArgumentError(
                "distributed: the Hessian is known for the dense family and complete rows; sum mvnjac.hessian(...).matrix() over "
                "the processes."
            )
        return hessian_from(model, model.arguments.default_names(), main)


class _LogProb(torch.autograd.Function):
    """The gradients come with the value."""

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
        own = covariance.at(list(parameters)) if isinstance(covariance, Covariance) else parameters[0]
        found = total(x, mean, own, missing=missing, group=group)
        ctx.by_mean = mean is not None
        ctx.save_for_backward(*found.sum().values())
        return found.log_prob.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        gradients = [grad * gradient for gradient in ctx.saved_tensors]
        return None, None, None, None, *([] if ctx.by_mean else [None]), *gradients


def _shard(x: Tensor, group: Group | None) -> tuple[Tensor, list[Group]]:
    """This process's rows, and the groups of processes whose rows are others."""
    if not isinstance(x, DTensor):
        there = dist.is_available() and dist.is_initialized()
        world = [dist.group.WORLD] if there and group is None else [group] if group is not None else []
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


def _whole(t: Tensor) -> Tensor:
    """A parameter as a plain tensor; its gradient is that of all rows on every process."""
    if not isinstance(t, DTensor):
        return t
    if not all(isinstance(placement, Replicate) for placement in t.placements):
        raise ArgumentError(f"distributed: a parameter is a DTensor placed as {t.placements}; replicate it: t.full_tensor().")
    return t.to_local()


def _plain(t: Tensor | None) -> Tensor | None:
    return None if t is None else _whole(t).detach()


def _plain_covariance(covariance: Tensor | Covariance) -> Tensor | Covariance:
    if not isinstance(covariance, Covariance):
        return _whole(covariance).detach()
    return covariance.at([_whole(t).detach() for t in covariance.parameters.values()])


def _reduced(sums: SumTuple, problem: MvnjacError | None, groups: Sequence[Group]) -> SumTuple:
    """The sums over all processes: everything in one vector, with how many have a problem: nobody waits for sums that never come."""
    tensors: dict[str, Tensor] = {}
    form = taken(sums, tensors)
    problems = next(iter(tensors.values())).new_tensor(float(problem is not None), dtype=torch.float64)
    every = [problems, *tensors.values()]
    flat = torch.cat([t.flatten().to(problems) for t in every])
    for group in groups:
        dist.all_reduce(flat, group=group)
    if problem is not None:
        raise problem
    if float(flat[0]):
        raise ArgumentError(f"distributed: the rows of {int(flat[0])} other process(es) cannot be used; see what it raises.")
    parts = flat.split([t.numel() for t in every])[1:]
    there = {name: part.view(t.shape).to(t) for (name, t), part in zip(tensors.items(), parts, strict=True)}
    reduced: SumTuple = made(form, there)
    return reduced
