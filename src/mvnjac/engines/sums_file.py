"""Sums as bytes, and back, bit by bit: safetensors, with the structure as metadata. Nothing that is read is ever executed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mvnjac.merging import Bundle, Totals
from mvnjac.moments import Moments
from mvnjac.passes import Some, Survey
from mvnjac.sample import Gathering, Pattern
from mvnjac.whitened import Sums

_KINDS = {cls.__name__: cls for cls in (Bundle, Totals, Sums, Moments, Gathering, Pattern, Some, Survey)}


def packed(sums: Any) -> bytes:
    """None, totals, sums of residuals, moments, bundles of these, and gathered rows.

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
    return {"kind": type(value).__name__, "fields": {name: taken(each, tensors) for name, each in vars(value).items()}}


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
    cls = _KINDS[form["kind"]]
    sums = cls.__new__(cls)
    vars(sums).update({name: made(each, tensors) for name, each in form["fields"].items()})
    return sums


def _by_columns(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and min(tensor.shape) > 1 and tensor.stride(0) < tensor.stride(1)
