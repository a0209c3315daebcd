"""Parametric: any differentiable θ → Σ(θ), or θ → (µ(θ), Σ(θ)). The chain rule, at the cost of one forward derivative."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Size, Tensor

from mvnjac.blocks.base import Entrywise
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.parametrisations.dense import Dense
from mvnjac.covariance.samples import BadInput, Maker
from mvnjac.errors import ArgumentError, DtypeError, NotPositiveDefiniteError, ShapeError
from mvnjac.linalg.triangular import cholesky, symmetric_part
from mvnjac.parameters import checks
from mvnjac.parameters.checks import Check
from mvnjac.parameters.coordinates import Coordinates, symmetric, vector
from mvnjac.tensors.broadcasting import narrow
from mvnjac.tensors.tracing import in_forward_mode, require_no_jit_trace, version
from mvnjac.whitening.factor import DenseFactor, Factor
from mvnjac.whitening.residuals import Residuals

#: {name: θ} → Σ, or → (µ, Σ)
Function = Callable[[dict[str, Tensor]], Tensor | tuple[Tensor, Tensor]]


class ParametricFactor(DenseFactor):
    """The dense factor of Σ(θ), and the derivatives of µ and Σ by θ, formed when first needed."""

    def __init__(self, covariance: Parametric, info: Tensor, covariance_matrix: Tensor, scale_tril: Tensor) -> None:
        super().__init__(info, covariance_matrix=covariance_matrix, scale_tril=scale_tril)
        self._covariance = covariance
        self._tangents: dict[str, tuple[Tensor | None, Tensor]] | None = None

    @property
    def tangents(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        """By name: ∂µ (*rows, d, k), None where the mean is not a function of θ; and ∂Σ (k, d, d)."""
        if self._tangents is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() or self.requires_grad):
                self._tangents = self._covariance.tangents()
        return self._tangents

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> ParametricFactor:
        part = copy.copy(self)
        part._tangents = {
            name: (None if mean is None else narrow(mean, full, 2, dim, index), sigma)
            for name, (mean, sigma) in self.tangents.items()
        }
        return part


class Parametric(Covariance):
    """Σ(θ) by a torch function of a dict of tensors; or µ(θ) and Σ(θ), which then replaces `mean`.

    Args:
        function: {name: tensor} → Σ (d, d), or → (µ, Σ) with µ (d,), or (n, d) for a mean of each row's own (a regression on
            covariates). It must be differentiable by torch in forward mode, and defined in a neighbourhood.
        parameters: θ, {name: tensor} of any shapes; their unique elements are all of their entries, row-major.

    Per observation, with a = Σ⁻¹(x − µ) (chain rule on `Dense`; Magnus & Neudecker, *Matrix Differential Calculus*):

        ∂ log p / ∂θₖ = aᵀ ∂ₖµ + ½ (aᵀ ∂ₖΣ a − tr(Σ⁻¹ ∂ₖΣ))

    ∂ₖΣ is computed once, in forward mode, whatever the number of observations.

    Example:
        >>> import torch, mvnjac
        >>> def ar1(theta):
        ...     lag = (torch.arange(3)[:, None] - torch.arange(3)).abs()
        ...     return theta["phi"] ** lag / (1 - theta["phi"] ** 2)
        >>> J = mvnjac.jacobian(torch.ones(1, 3), torch.zeros(3), mvnjac.Parametric(ar1, {"phi": torch.tensor(0.5)}))
        >>> J["phi"]
        tensor([0.8333])
    """

    fields = {}

    def __init__(self, function: Function, parameters: Mapping[str, Tensor]) -> None:
        if not callable(function):
            raise ArgumentError(f"Parametric: function is a {type(function).__name__}; pass a function of a dict of tensors.")
        if not isinstance(parameters, Mapping):
            raise ArgumentError(
                f"Parametric: parameters is a {type(parameters).__name__}; pass a dict of tensors, such as {{'theta': θ}}, which the "
                "function takes."
            )
        if not parameters:
            raise ArgumentError("Parametric: there are no parameters; pass {name: tensor}.")
        reserved = [name for name in parameters if name in ("x", "mean") or "[" in name]
        if reserved:
            raise ArgumentError(f"Parametric: {reserved[0]!r} cannot be the name of a parameter here.")
        self.function = function
        shapes = {name: tuple(value.shape) for name, value in parameters.items() if isinstance(value, Tensor)}
        self.fields = {name: _kind(shape) for name, shape in shapes.items()}
        self._known: tuple[list[int | None], tuple[Tensor | None, Tensor]] | None = None
        super().__init__(**parameters)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": None}  # a copy of a tensor counts its changes from zero

    @property
    def _value(self) -> tuple[Tensor | None, Tensor]:
        """µ(θ) and Σ(θ), evaluated anew when θ was changed in place."""
        versions = [version(t) for t in self.parameters.values()]
        if self._known is None or self._known[0] != versions:
            self._known = versions, self.evaluate()
        return self._known[1]

    def evaluate(self) -> tuple[Tensor | None, Tensor]:
        """(µ(θ), or None where the mean is given apart; Σ(θ))."""
        value = self.function(dict(self.parameters))
        mean, sigma = value if isinstance(value, tuple) else (None, value)
        if not isinstance(sigma, Tensor) or sigma.ndim != 2 or sigma.shape[0] != sigma.shape[1]:
            got = f"of shape {tuple(sigma.shape)}" if isinstance(sigma, Tensor) else f"a {type(sigma).__name__}"
            raise ShapeError(f"Parametric: function returned a covariance {got}; expected a tensor (d, d).")
        for what, result in (("mean", mean), ("covariance", sigma)):
            if isinstance(result, Tensor) and result.dtype != self.dtype:
                raise DtypeError(
                    f"Parametric: function returned a {what} of {result.dtype} for parameters of {self.dtype}; let it return the "
                    "parameters' dtype: a constant inside may be of the other one."
                )
        if mean is not None and (mean.ndim == 0 or mean.shape[-1] != sigma.shape[-1]):
            raise ShapeError(
                f"Parametric: function returned a mean of shape {tuple(mean.shape)} with a covariance of shape "
                f"{tuple(sigma.shape)}; expected (d,) or (n, d)."
            )
        return mean, sigma

    @property
    def mean(self) -> Tensor | None:
        """µ(θ), where it is a function of θ."""
        return self._value[0]

    @property
    def dimension(self) -> int:
        return self._value[1].shape[-1]

    @property
    def batch(self) -> Size:
        return Size()

    def evaluated(self) -> tuple[Tensor | None, Dense]:
        mean, sigma = self.evaluate()
        return mean, Dense(sigma)

    def _check_shapes(self) -> None:
        _ = self._value  # any shapes will do that the function takes

    def at(self, values: Sequence[Tensor]) -> Self:
        return type(self)(self.function, dict(zip(self.parameters, values, strict=True)))

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Self:
        return self

    def factor(self, d: int) -> ParametricFactor:
        covariance_matrix = symmetric_part(self._value[1])
        scale_tril, info = cholesky(covariance_matrix)
        return ParametricFactor(self, info, covariance_matrix, scale_tril)

    def tangents(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        """∂µ (*rows, d, k) and ∂Σ (k, d, d) by each parameter, by one forward derivative."""
        names = list(self.parameters)

        def flat(*values: Tensor) -> tuple[Tensor, ...]:
            mean, sigma = self.at(values).evaluate()
            return (sigma,) if mean is None else (sigma, mean)

        require_no_jit_trace("Parametric")
        jacobian = torch.func.jacrev if in_forward_mode() else torch.func.jacfwd
        derivatives = jacobian(flat, tuple(range(len(names))))(*self.parameters.values())
        sigmas, means = derivatives[0], derivatives[1] if len(derivatives) > 1 else [None] * len(names)
        result: dict[str, tuple[Tensor | None, Tensor]] = {}
        for name, sigma, mean in zip(names, sigmas, means, strict=True):
            k, d = self.parameters[name].numel(), sigma.shape[0]
            by_mean = None if mean is None else mean.reshape((*self.mean.shape, k))  # type: ignore[union-attr]
            by_sigma = sigma.reshape(d, d, k).movedim(-1, 0)
            result[name] = by_mean, 0.5 * (by_sigma + by_sigma.mT)
        return result

    def second(self, v: Mapping[str, Tensor], sigma_gradient: Tensor, mean_gradient: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + ⟨g, d²µ[v, ·]⟩, with G and g fixed."""
        names = list(self.parameters)

        def value(*values: Tensor) -> Tensor:
            mean, sigma = self.at(values).evaluate()
            total = (sigma_gradient * sigma).sum()
            return total if mean is None else total + (mean_gradient * mean).sum()

        every = tuple(range(len(names)))

        def along(*values: Tensor) -> Tensor:
            gradients = torch.func.grad(value, every)(*values)
            terms = [(g * v[name]).sum() for name, g in zip(names, gradients, strict=True) if name in v]
            return torch.stack(terms).sum()

        return dict(zip(names, torch.func.grad(along, every)(*self.parameters.values()), strict=True))

    @classmethod
    def pullback(cls, name: str, rows: Residuals) -> Entrywise:
        assert isinstance(rows.factor, ParametricFactor)
        a, factor = rows.scaled, rows.factor
        by_mean, by_sigma = factor.tangents[name]
        traces = (factor.precision_matrix * by_sigma).sum((-2, -1))
        squares = [((a @ change) * a).sum(-1) for change in by_sigma]
        values = 0.5 * (torch.stack(squares, -1) - traces) if squares else a.new_zeros(*a.shape[:-1], 0)
        if by_mean is not None:
            values = values + (a.unsqueeze(-2) @ by_mean).squeeze(-2)
        kind = factor._covariance.coordinates_of(name, rows.d)
        return Entrywise(values.reshape((*rows.batch, *kind.shape)), kind)

    def fisher(self, factor: ParametricFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """½ ⟨Kₖ, Σ vₗ Kₗ⟩ with Kₖ = L⁻¹ ∂ₖΣ L⁻ᵀ: where the mean is given apart."""
        whitened = {name: factor.whiten_matrix(by_sigma) for name, (_, by_sigma) in factor.tangents.items()}
        terms = [torch.tensordot(value.reshape(-1), whitened[name], 1) for name, value in v.items()]
        K = torch.stack(terms).sum(0)
        images = {name: 0.5 * (own * K).sum((-2, -1)) for name, own in whitened.items()}
        return {name: image.reshape(self.parameters[name].shape) for name, image in images.items()}

    def times(self, factor: ParametricFactor, v: Tensor) -> Tensor:
        return (factor.covariance_matrix @ v.unsqueeze(-1)).squeeze(-1)

    def free_parameters(self, d: int) -> int:
        """All elements: whether the function tells them apart, only the data say. They may be the mean's, too."""
        return sum(value.numel() for value in self.parameters.values())

    def dense(self, d: int | None = None) -> Tensor:
        return self._value[1]

    def checks(self, factor: Factor) -> Iterator[Check]:
        assert isinstance(factor, ParametricFactor)
        sigma = self._value[1]
        if self.mean is not None:
            yield checks.finite("µ(θ)", self.mean, vector(self.dimension))
        yield checks.finite("Σ(θ)", sigma, symmetric(self.dimension))
        yield checks.symmetric("Σ(θ)", sigma)
        yield checks.definite("Σ(θ)", sigma, factor.info)

    @classmethod
    def samples(cls, d: int, make: Maker) -> Iterator[Self]:
        if make.batch:  # θ has no leading dimensions: its shapes are its own
            return
        points = torch.arange(d, dtype=torch.float64, device="cpu")

        def kernel(theta: dict[str, Tensor]) -> Tensor:
            distance = (points[:, None] - points).to(theta["size"].dtype)
            smooth = torch.exp(2 * theta["size"] - 0.5 * (distance * torch.exp(-theta["length"])) ** 2)
            return smooth + torch.diag_embed(torch.exp(theta["noise"]))

        yield cls(kernel, {"size": make.normal(), "length": 0.3 * make.normal(), "noise": make.normal(d)})

    @classmethod
    def bad_inputs(cls, make: Maker) -> Iterator[BadInput]:
        def bad(function: Any, error: type[Exception], says: str, size: Any = 1.0) -> BadInput:
            return BadInput({"function": function, "parameters": {"size": make.tensor(size)}}, error, says)

        eye = torch.eye(3, dtype=make.dtype, device="cpu")
        yield bad(lambda t: -t["size"] * eye, NotPositiveDefiniteError, r"Σ\(θ\) is not positive definite")
        yield bad(lambda t: t["size"] * eye[0], ShapeError, r"returned a covariance of shape \(3,\)")
        yield bad("kernel", ArgumentError, "function is a str")

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={tuple(value.shape)}" for name, value in self.parameters.items())
        named = inspect.isfunction(self.function)
        return f"Parametric({self.function.__name__ if named else type(self.function).__name__}, {shapes}, dtype={self.dtype})"


def _kind(shape: tuple[int, ...]) -> Callable[[int], Coordinates]:
    return functools.partial(_any_shape, shape)


def _any_shape(shape: tuple[int, ...], d: int) -> Coordinates:
    return Coordinates(shape, ())
