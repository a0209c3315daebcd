"""The state of torch: is an autograd graph, a transform, a compiler, a tracer or a mode active, and are values available?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from mvnjac.errors import ArgumentError


def _constant_when_compiled(function: Callable[[], bool]) -> Callable[[], bool]:
    """`torch.compiler.assume_constant_result` without its import of the compiler, which takes as long as importing torch."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


_tracing_state = torch._C._get_tracing_state
_functorch_level = torch._C._functorch.maybe_current_level
_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack

#: the dispatch modes of make_fx, FakeTensorMode and functionalisation
_RECORDERS = tuple(torch._C._TorchDispatchModeKey.__members__.values())


def recorded() -> bool:
    """Whether operations are recorded (torch.compile, torch.jit.trace, make_fx) or run on fake tensors."""
    return torch.compiler.is_compiling() or in_jit_trace() or (_modes() > 0 and _in_recording_mode())


def _in_recording_mode() -> bool:
    return any(torch._C._get_dispatch_mode(key) is not None for key in _RECORDERS)


def in_jit_trace() -> bool:
    """Whether torch.jit.trace is recording."""
    return _tracing_state() is not None


def require_no_jit_trace(function: str) -> None:
    """Raise ArgumentError under torch.jit.trace, which cannot record derivatives taken by torch.func."""
    if in_jit_trace():
        raise ArgumentError(
            f"{function}: it takes derivatives by torch.func, which torch.jit.trace cannot record; call it outside of the "
            "traced function, or use torch.compile or torch.export."
        )


def intercepted() -> bool:
    """Whether torch.jit.trace or a dispatch mode observes operations, so that a compiled kernel must not bypass it."""
    return in_jit_trace() or _modes() > 0


def is_traced(*tensors: Tensor) -> bool:
    """Whether an autograd graph, a transform, a compiler or a tracer is active for these tensors."""
    if recorded():
        return True
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return any(_transformed(t) for t in tensors)


def _transformed(t: Tensor) -> bool:
    if torch._C._functorch.is_functorch_wrapped_tensor(t) or torch._C._functorch.is_legacy_batchedtensor(t):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None


def is_concrete(*tensors: Tensor) -> bool:
    """Whether the values are available: operations are not `recorded`, and no tensor is batched by vmap, fake or on meta."""
    return not recorded() and not any(_batched(t) or t.is_meta or isinstance(t, FakeTensor) for t in tensors)


def nan_where(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """NaN where the mask is set, else 1. A product with it also has NaN derivatives there, unlike a masked fill."""
    return torch.ones_like(mask, dtype=dtype).masked_fill(mask, torch.nan)


def _batched(t: Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        if torch._C._functorch.is_batchedtensor(t):
            return True
        t = torch._C._functorch.get_unwrapped(t)
    return bool(torch._C._functorch.is_legacy_batchedtensor(t))  # autograd's internal batching of cotangents


def unwrap(t: Tensor) -> Tensor:
    """The tensor inside all wrappers of torch.func transforms."""
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t


def to_numpy(t: Tensor) -> np.ndarray:
    """The values of a concrete tensor as a numpy array, without any transform."""
    with temporarily_clear_interpreter_stack():
        values: np.ndarray = unwrap(t).detach().cpu().numpy()
    return values


@_constant_when_compiled
def transforming() -> bool:
    """Whether a transform of torch.func is active; under torch.compile the answer is a constant of the trace."""
    return torch._C._functorch.maybe_current_level() is not None


def is_on_host(t: Tensor) -> bool:
    """Whether reading a value needs no device synchronisation: the tensor is in CPU memory and not fake."""
    return t.device.type == "cpu" and not isinstance(t, FakeTensor)


def in_forward_mode() -> bool:
    """Whether autograd's forward mode (`torch.autograd.forward_ad`) is active, inside which torch.func.jvp cannot be used."""
    return bool(forward_ad._current_level >= 0) and not transforming()


def constant_size(t: Tensor, dim: int = -1) -> int:
    """A size as an integer: under torch.jit.trace sizes are tensors, which cannot be keys and whose products are float32."""
    size = t.shape[dim]
    if not isinstance(size, Tensor):
        return size
    state = _tracing_state()
    torch._C._set_tracing_state(None)
    try:
        return int(size)
    finally:
        torch._C._set_tracing_state(state)


def unsavable(t: Tensor) -> bool:
    """Whether autograd cannot save the tensor for a backward pass: it was created in inference mode, which has ended."""
    return not torch.compiler.is_compiling() and t.is_inference() and not torch.is_inference_mode_enabled()


def savable(t: Tensor) -> Tensor:
    """The tensor, or a copy if it is `unsavable`."""
    return t.clone() if unsavable(t) else t


def version(t: Tensor) -> int | None:
    """Autograd's count of in-place changes; None if it is not available (inference tensors, under a compiler)."""
    return None if torch.compiler.is_compiling() or t.is_inference() else t._version


def watched() -> bool:
    """Whether a transform, a compiler, a tracer or a mode of torch is active, so that plain tensors may have no values."""
    return (
        torch.compiler.is_compiling()
        or _tracing_state() is not None
        or _functorch_level() is not None
        or forward_ad._current_level >= 0
        or _modes() > 0
        or (_function_modes() > 0 and not _only_a_default_device())
    )


def _only_a_default_device() -> bool:
    """Whether the only function modes are default devices, which have no effect since this package always passes a device."""
    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def plain(t: Tensor, dtype: torch.dtype, graph: bool = False, anywhere: bool = False) -> bool:
    """Whether this is an unwrapped, contiguous tensor of this dtype in CPU memory, without an autograd graph.

    graph: allow a graph and `Parameter`; anywhere: allow any device and any strides.
    """
    return (
        (type(t) is Tensor or (graph and type(t) is torch.nn.Parameter))
        and t.dtype is dtype
        and t.layout is torch.strided
        and (anywhere or (t.is_cpu and t.is_contiguous()))
        and not t.is_neg()
        and (graph or not t.requires_grad)
        and not t.is_inference()
    )
