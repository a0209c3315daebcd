"""What torch is doing: whether a graph, a transform, a compiler, a tracer or a mode is active, and whether numbers can be looked at."""

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
    """`torch.compiler.assume_constant_result`, which imports the compiler: that takes as long as importing torch."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


_tracing_state = torch._C._get_tracing_state

_functorch_level = torch._C._functorch.maybe_current_level

_modes = torch._C._len_torch_dispatch_stack

_function_modes = torch._C._len_torch_function_stack

#: the dispatch modes of make_fx, FakeTensorMode and functionalisation
_RECORDERS = tuple(torch._C._TorchDispatchModeKey.__members__.values())


def recorded() -> bool:
    """Whether operations are recorded for other numbers (torch.compile, torch.jit.trace, make_fx) or run without numbers at all."""
    return torch.compiler.is_compiling() or in_jit_trace() or (_modes() > 0 and _by_a_mode())


def _by_a_mode() -> bool:
    return any(torch._C._get_dispatch_mode(key) is not None for key in _RECORDERS)


def in_jit_trace() -> bool:
    """Whether torch.jit.trace records."""
    return _tracing_state() is not None


def require_no_jit_trace(function: str) -> None:
    """Refuse what takes derivatives by torch.func, which torch.jit.trace does not record."""
    if in_jit_trace():
        raise ArgumentError(
            f"{function}: it takes derivatives by torch.func, which torch.jit.trace cannot record; call it outside of the traced "
            "function, or use torch.compile or torch.export."
        )


def intercepted() -> bool:
    """Whether torch.jit.trace or a dispatch mode sees every operation, so that a kernel must not write results past it."""
    return in_jit_trace() or _modes() > 0


def is_traced(*tensors: Tensor) -> bool:
    """Whether a derivative, a batching transform, a compiler or a tracer is active for these tensors: then plain torch only."""
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
    """Whether the numbers can be looked at: not where operations are `recorded`, nor where vmap has made one tensor of many."""
    return not recorded() and not any(_batched(t) or t.is_meta or isinstance(t, FakeTensor) for t in tensors)


def nan_where(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """NaN where the mask is set and 1 elsewhere: what is multiplied by it has NaN derivatives there, too, which a fill has not."""
    return torch.ones_like(mask, dtype=dtype).masked_fill(mask, torch.nan)


def _batched(t: Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        if torch._C._functorch.is_batchedtensor(t):
            return True
        t = torch._C._functorch.get_unwrapped(t)
    return bool(torch._C._functorch.is_legacy_batchedtensor(t))  # autograd's own way to batch cotangents


def unwrap(t: Tensor) -> Tensor:
    """The tensor that transforms of torch.func have wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(t):
        t = torch._C._functorch.get_unwrapped(t)
    return t


def to_numpy(t: Tensor) -> np.ndarray:
    """The numbers of a concrete tensor, beneath all transforms."""
    with temporarily_clear_interpreter_stack():
        numbers: np.ndarray = unwrap(t).detach().cpu().numpy()
    return numbers


@_constant_when_compiled
def transforming() -> bool:
    """Whether a transform of torch.func is under way; under torch.compile it is known when the code is traced."""
    return torch._C._functorch.maybe_current_level() is not None


def is_on_host(t: Tensor) -> bool:
    """Whether to look at a number costs nothing. A tensor on another device would have to be waited for."""
    return t.device.type == "cpu" and not isinstance(t, FakeTensor)


def in_forward_mode() -> bool:
    """Whether autograd's own forward mode is under way, inside which torch.func's cannot be used."""
    return bool(forward_ad._current_level >= 0) and not transforming()


def constant_size(t: Tensor, dim: int = -1) -> int:
    """A size as a number: torch.jit.trace makes tensors of sizes, which are no keys, and products of which with numbers are float32."""
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
    """Whether autograd refuses to save the tensor for a backward pass: it was made in inference mode, which is over."""
    return not torch.compiler.is_compiling() and t.is_inference() and not torch.is_inference_mode_enabled()


def savable(t: Tensor) -> Tensor:
    """The tensor, or a copy of one that is `unsavable`."""
    return t.clone() if unsavable(t) else t


def version(t: Tensor) -> int | None:
    """The count of in-place changes, which autograd keeps too; None where none is kept (inference tensors, compilers)."""
    return None if torch.compiler.is_compiling() or t.is_inference() else t._version


def watched() -> bool:
    """Whether a transform, a compiler, a tracer or a mode of torch is active: then not even plain tensors are what they seem."""
    return (
        torch.compiler.is_compiling()
        or _tracing_state() is not None
        or _functorch_level() is not None
        or forward_ad._current_level >= 0
        or _modes() > 0
        or (_function_modes() > 0 and not _only_a_default_device())
    )


def _only_a_default_device() -> bool:
    """Whether torch's modes for functions say no more than where tensors are made that name no device: all of ours name one."""
    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def plain(t: Tensor, dtype: torch.dtype, graph: bool = False, anywhere: bool = False) -> bool:
    """Whether these are contiguous numbers in CPU memory, wrapped by nothing.

    graph: they may carry one; anywhere: they may be on any device, with any strides.
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
