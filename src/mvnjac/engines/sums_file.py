"""Sums as bytes, and back, bit by bit: safetensors, with the structure as metadata. Nothing that is read is ever executed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from mvnjac.merging import Bundle, Totals
from mvnjac.moments import Moments
from mvnjac.whitened import Sums

_KINDS = {cls.__name__: cls for cls in (Totals, Sums, Moments)}


def packed(sums: Any) -> bytes:
    """None, totals, sums of residuals, moments, and bundles of these."""
    tensors: dict[str, Tensor] = {}
    form = json.dumps(taken(sums, tensors)).encode()
    return len(form).to_bytes(8, "little") + form + save({name: t.contiguous() for name, t in tensors.items()})


def unpacked(content: bytes) -> Any:
    """What `packed` has packed."""
    end = 8 + int.from_bytes(content[:8], "little")
    return made(json.loads(content[8:end]), load(content[end:]))


def mapped(sums: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same sums with every tensor changed: moved to another device, say."""
    tensors: dict[str, Tensor] = {}
    form = taken(sums, tensors)
    return made(form, {name: change(t) for name, t in tensors.items()})


def taken(sums: Any, tensors: dict[str, Tensor]) -> Any:
    """The form of some sums; their tensors are put among the others under a number."""
    if sums is None:
        return None
    if isinstance(sums, Bundle):
        return [taken(part, tensors) for part in sums.parts]
    fields = sums.tensors if isinstance(sums, Totals) else vars(sums)
    form: dict[str, Any] = {"kind": type(sums).__name__, "numbers": {}, "tensors": {}}
    for name, value in fields.items():
        if isinstance(value, Tensor):
            form["tensors"][name] = str(len(tensors))
            tensors[str(len(tensors))] = value
        else:
            form["numbers"][name] = value
    return form


def made(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The sums of a form, with these tensors."""
    if form is None:
        return None
    if isinstance(form, list):
        return Bundle([made(part, tensors) for part in form])
    fields = {**form["numbers"], **{name: tensors[place] for name, place in form["tensors"].items()}}
    return Totals(fields) if form["kind"] == "Totals" else _KINDS[form["kind"]](**fields)
