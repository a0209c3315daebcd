"""Exact serialisation of sums: tensors as safetensors, their structure as JSON. Reading executes no code from the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

_kinds: dict[str, type] = {}
_tags: dict[type, str] = {}
C = TypeVar("C", bound=type)


def stored_as(tag: str) -> Callable[[C], C]:
    """Register a class of sums for serialisation, under a tag for files; the `vars` of its instances are stored."""

    def register(cls: C) -> C:
        _kinds[tag], _tags[cls] = cls, tag
        return cls

    return register


def packed(sums: Any) -> bytes:
    """Serialise numbers, tensors, sequences and mappings of these, and instances of classes registered with `stored_as`.

    Column-major tensors are restored in column-major order, since the memory order affects the rounding of later sums.
    """
    tensors: dict[str, Tensor] = {}
    form = taken(sums, tensors)
    columns = [name for name, t in tensors.items() if _by_columns(t)]
    head = json.dumps({"form": form, "columns": columns}).encode()
    stored = {
        name: (t.mT if name in columns else t).clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    return len(head).to_bytes(8, "little") + head + save(stored)


def unpacked(content: bytes) -> Any:
    """The sums serialised by `packed`."""
    end = 8 + int.from_bytes(content[:8], "little")
    head, tensors = json.loads(content[8:end]), load(content[end:])
    return made(head["form"], tensors | {name: tensors[name].mT for name in head["columns"]})


def mapped(sums: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The sums with a function applied to every tensor, for example to move them to another device."""
    tensors: dict[str, Tensor] = {}
    form = taken(sums, tensors)
    return made(form, {name: change(t) for name, t in tensors.items()})


def taken(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The structure of sums as JSON-compatible values; their tensors are added to `tensors` under consecutive numbers."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value
        return {"tensor": key}
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [taken(each, tensors) for each in value]
    if isinstance(value, Mapping):
        return {"items": [[taken(key, tensors), taken(each, tensors)] for key, each in value.items()]}
    return {"kind": _tags[type(value)], "fields": {name: taken(each, tensors) for name, each in vars(value).items()}}


def made(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The sums with this structure and these tensors: the inverse of `taken`."""
    if isinstance(form, list):
        return [made(each, tensors) for each in form]
    if not isinstance(form, dict):
        return form
    if "tensor" in form:
        return tensors[form["tensor"]]
    if "items" in form:
        return {tuple(key) if isinstance(key, list) else key: made(each, tensors) for key, each in form["items"]}
    cls = _kinds[form["kind"]]
    sums: Any = object.__new__(cls)
    vars(sums).update({name: made(each, tensors) for name, each in form["fields"].items()})
    return sums


def _by_columns(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and min(tensor.shape) > 1 and tensor.stride(0) < tensor.stride(1)
