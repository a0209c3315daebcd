"""Parametric: any differentiable θ → Σ(θ), or θ → (µ(θ), Σ(θ)), by the chain rule with one forward-mode derivative."""

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
    """The dense factor of Σ(θ), and the derivatives of µ and Σ with respect to θ, computed on demand."""

    def __init__(self, covariance: Parametric, info: Tensor, covariance_matrix: Tensor, scale_tril: Tensor) -> None:
        super().__init__(info, covariance_matrix=covariance_matrix, scale_tril=scale_tril)
        self._covariance = covariance
        self._tangents: dict[str, tuple[Tensor | None, Tensor]] | None = None

    @property
    def tangents(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        """By parameter name: ∂µ (*rows, d, k), or None if the mean is not a function of θ; and ∂Σ (k, d, d)."""
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
    """Σ(θ) as a torch function of a dict of tensors; or µ(θ) and Σ(θ), in which case the argument `mean` is None.

    Args:
        function: {name: tensor} → Σ (d, d), or → (µ, Σ) with µ (d,), or (n, d) if each row has its own mean (a regression on
            covariates). It must be differentiable by torch in forward mode in a neighbourhood of θ.
        parameters: θ, {name: tensor} of any shapes; the unique elements are all entries, row-major.

    Per observation, with a = Σ⁻¹(x − µ) (chain rule on `Dense`; Magnus & Neudecker, *Matrix Differential Calculus*):

        ∂ log p / ∂θₖ = aᵀ ∂ₖµ + ½ (aᵀ ∂ₖΣ a − tr(Σ⁻¹ ∂ₖΣ))

    ∂ₖΣ is computed once, in forward mode, for any number of observations.

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
    second_order_by_chain_rule = True

    def __init__(self, function: Function, parameters: Mapping[str, Tensor]) -> None:
        if not callable(function):
            raise ArgumentError(f"Parametric: function is a {type(function).__name__}; pass a function of a dict of tensors.")
        if not isinstance(parameters, Mapping):
            raise ArgumentError(
                f"Parametric: parameters is a {type(parameters).__name__}; pass a dict of tensors, such as {{'theta': θ}}, which is "
                "the argument of the function."
            )
        if not parameters:
            raise ArgumentError("Parametric: there are no parameters; pass {name: tensor}.")
        reserved = [name for name in parameters if name in ("x", "mean") or "[" in name]
        if reserved:
            raise ArgumentError(f"Parametric: {reserved[0]!r} cannot be the name of a parameter here.")
        self.function = function
        shapes = {name: tuple(value.shape) for name, value in parameters.items() if isinstance(value, Tensor)}
        self.fields = {name: functools.partial(_coordinates, shape) for name, shape in shapes.items()}
        self._cached: tuple[list[int | None], tuple[Tensor | None, Tensor]] | None = None
        super().__init__(**parameters)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_cached": None}  # the version counters of copied tensors start from zero

    def stored_form(self) -> Any:
        raise ArgumentError("save: a Parametric is a function, which cannot be saved; save its parameters by torch.save.")

    @property
    def _value(self) -> tuple[Tensor | None, Tensor]:
        """µ(θ) and Σ(θ), evaluated again if θ was modified in place."""
        versions = [version(t) for t in self.parameters.values()]
        if self._cached is None or self._cached[0] != versions:
            self._cached = versions, self.evaluate()
        return self._cached[1]

    def evaluate(self) -> tuple[Tensor | None, Tensor]:
        """µ(θ), or None if the function does not return a mean; and Σ(θ)."""
        value = self.function(dict(self.parameters))
        mean, sigma = value if isinstance(value, tuple) else (None, value)
        if not isinstance(sigma, Tensor) or sigma.ndim != 2 or sigma.shape[0] != sigma.shape[1]:
            got = f"of shape {tuple(sigma.shape)}" if isinstance(sigma, Tensor) else f"a {type(sigma).__name__}"
            raise ShapeError(f"Parametric: function returned a covariance {got}; expected a tensor (d, d).")
        for what, result in (("mean", mean), ("covariance", sigma)):
            if isinstance(result, Tensor) and result.dtype != self.dtype:
                raise DtypeError(
                    f"Parametric: function returned a {what} of {result.dtype} for parameters of {self.dtype}; let it return the "
                    "parameters' dtype: a constant inside the function may have the other dtype."
                )
        if mean is not None and (mean.ndim == 0 or mean.shape[-1] != sigma.shape[-1]):
            raise ShapeError(
                f"Parametric: function returned a mean of shape {tuple(mean.shape)} with a covariance of shape "
                f"{tuple(sigma.shape)}; expected (d,) or (n, d)."
            )
        return mean, sigma

    @property
    def mean(self) -> Tensor | None:
        """µ(θ), or None if the function does not return a mean."""
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
        _ = self._value  # any shapes are allowed that the function accepts

    def at(self, values: Sequence[Tensor]) -> Self:
        return type(self)(self.function, dict(zip(self.parameters, values, strict=True)))

    def narrow(self, full: Size, dim: int, index: slice | Tensor) -> Self:
        return self

    def factor(self, d: int) -> ParametricFactor:
        covariance_matrix = symmetric_part(self._value[1])
        scale_tril, info = cholesky(covariance_matrix)
        return ParametricFactor(self, info, covariance_matrix, scale_tril)

    def tangents(self) -> dict[str, tuple[Tensor | None, Tensor]]:
        """By parameter name, ∂µ (*rows, d, k) and ∂Σ (k, d, d), from one forward-mode derivative."""
        names = list(self.parameters)

        def function(*values: Tensor) -> tuple[Tensor, ...]:
            mean, sigma = self.at(values).evaluate()
            return (sigma,) if mean is None else (sigma, mean)

        require_no_jit_trace("Parametric")
        jacobian = torch.func.jacrev if in_forward_mode() else torch.func.jacfwd
        derivatives = jacobian(function, tuple(range(len(names))))(*self.parameters.values())
        sigmas, means = derivatives[0], derivatives[1] if len(derivatives) > 1 else [None] * len(names)
        result: dict[str, tuple[Tensor | None, Tensor]] = {}
        for name, sigma, mean in zip(names, sigmas, means, strict=True):
            k, d = self.parameters[name].numel(), sigma.shape[0]
            by_mean = None if mean is None else mean.reshape((*self.mean.shape, k))  # type: ignore[union-attr]
            by_sigma = sigma.reshape(d, d, k).movedim(-1, 0)
            result[name] = by_mean, 0.5 * (by_sigma + by_sigma.mT)
        return result

    def second(self, v: Mapping[str, Tensor], sigma_gradient: Tensor, mean_gradient: Tensor) -> dict[str, Tensor]:
        """The gradients of ⟨G, d²Σ[v, ·]⟩ + ⟨g, d²µ[v, ·]⟩ with the gradients G and g of Σ and µ held fixed."""
        names = list(self.parameters)

        def value(*values: Tensor) -> Tensor:
            mean, sigma = self.at(values).evaluate()
            total = (sigma_gradient * sigma).sum()
            return total if mean is None else total + (mean_gradient * mean).sum()

        argnums = tuple(range(len(names)))

        def directional(*values: Tensor) -> Tensor:
            gradients = torch.func.grad(value, argnums)(*values)
            terms = [(g * v[name]).sum() for name, g in zip(names, gradients, strict=True) if name in v]
            return torch.stack(terms).sum()

        return dict(zip(names, torch.func.grad(directional, argnums)(*self.parameters.values()), strict=True))

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
        coordinates = factor._covariance.coordinates_of(name, rows.d)
        return Entrywise(values.reshape((*rows.batch, *coordinates.shape)), coordinates)

    def fisher(self, factor: ParametricFactor, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """½ ⟨Kₖ, Σ vₗ Kₗ⟩ with Kₖ = L⁻¹ ∂ₖΣ L⁻ᵀ, for a function that does not return a mean."""
        whitened = {name: factor.whiten_matrix(by_sigma) for name, (_, by_sigma) in factor.tangents.items()}
        terms = [torch.tensordot(value.reshape(-1), whitened[name], 1) for name, value in v.items()]
        K = torch.stack(terms).sum(0)
        images = {name: 0.5 * (tangent * K).sum((-2, -1)) for name, tangent in whitened.items()}
        return {name: image.reshape(self.parameters[name].shape) for name, image in images.items()}

    def times(self, factor: ParametricFactor, v: Tensor) -> Tensor:
        return (factor.covariance_matrix @ v.unsqueeze(-1)).squeeze(-1)

    def free_parameters(self, d: int) -> int:
        """All elements, including those that only the mean depends on: identification is not known for a general function."""
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
        if make.batch:  # θ has no leading dimensions
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


def _coordinates(shape: tuple[int, ...], d: int) -> Coordinates:
    return Coordinates(shape, ())
