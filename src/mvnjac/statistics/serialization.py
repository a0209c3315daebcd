"""Sums as bytes, and back, bit by bit: safetensors, with the structure as metadata. Nothing that is read is ever executed."""

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
    """Lets a class of sums be stored, under a tag that stands in files: what is stored is its instances' `vars`."""

    def register(cls: C) -> C:
        _kinds[tag], _tags[cls] = cls, tag
        return cls

    return register


def packed(sums: Any) -> bytes:
    """Numbers, tensors, sequences and mappings of these, and instances of classes that are `stored_as` something.

    What lies in memory column after column is so again afterwards: in which order rows are added is part of a sum's rounding.
    """
    tensors: dict[str, Tensor] = {}
    form = taken(sums, tensors)
    columns = [name for name, t in tensors.items() if _by_columns(t)]
    head = json.dumps({"form": form, "columns": columns}).encode()
    whole = torch.contiguous_format
    stored = {name: (t.mT if name in columns else t).clone(memory_format=whole) for name, t in tensors.items()}
    return len(head).to_bytes(8, "little") + head + save(stored)


def unpacked(content: bytes) -> Any:
    """What `packed` has packed."""
    end = 8 + int.from_bytes(content[:8], "little")
    head, tensors = json.loads(content[8:end]), load(content[end:])
    return made(head["form"], tensors | {name: tensors[name].mT for name in head["columns"]})


def mapped(sums: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same sums with every tensor changed: moved to another device, say."""
    tensors: dict[str, Tensor] = {}
    form = taken(sums, tensors)
    return made(form, {name: change(t) for name, t in tensors.items()})


def taken(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The form of some sums, as JSON; their tensors are put among the others under a number."""
    if isinstance(value, Tensor):
        place = str(len(tensors))
        tensors[place] = value
        return {"tensor": place}
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [taken(each, tensors) for each in value]
    if isinstance(value, Mapping):
        return {"items": [[taken(key, tensors), taken(each, tensors)] for key, each in value.items()]}
    return {"kind": _tags[type(value)], "fields": {name: taken(each, tensors) for name, each in vars(value).items()}}


def made(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The sums of a form, with these tensors."""
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
