"""A change of the parameters without its part along a direction that leaves Σ as it is."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from mvnjac.coordinates import symmetric


def without(v: Mapping[str, Tensor], null: Mapping[str, Tensor], dual: bool = False) -> dict[str, Tensor]:
    """v less its part along `null`, symmetric matrices both, seen as vectors of unique elements; dual: v are gradients, as partial
    derivatives."""
    kinds = {name: symmetric(value.shape[-1]) for name, value in null.items()}
    packed = {name: kind.pack_gradient(v[name]) if dual else kind.pack(v[name]) for name, kind in kinds.items()}
    along = {name: kind.pack(null[name]) for name, kind in kinds.items()}
    squares = functools.reduce(torch.add, [(n * n).sum(-1) for n in along.values()])
    share = functools.reduce(torch.add, [(packed[name] * n).sum(-1) for name, n in along.items()]) / squares
    left = {name: packed[name] - share.unsqueeze(-1) * n for name, n in along.items()}
    return {name: kind.unpack_gradient(left[name]) if dual else kind.unpack(left[name]) for name, kind in kinds.items()}
