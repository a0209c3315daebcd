"""Caching of results computed from tensors, valid as long as these are the same and unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.tensors.tracing import is_on_host, recorded, transforming, version
from mvnjac.whitening.factor import Factor


class Snapshot:
    """The current state of some tensors; `matches` compares others for the same memory without changes since.

    Inference tensors have no version counter, so that their values are copied and compared.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors, self._versions = list(tensors), [version(t) for t in tensors]
        self._copies = [t.clone() if count is None else None for t, count in zip(tensors, self._versions, strict=True)]

    def __reduce__(self) -> tuple[type[Snapshot], tuple[list[Tensor]]]:
        return Snapshot, ([],)  # copied tensors have new version counters, so that a copied snapshot matches nothing

    def matches(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the tensors of the snapshot, unchanged."""
        return len(tensors) == len(self._tensors) and all(
            (t is known or _same_memory(t, known))
            and (version(t) == count if copy is None else is_on_host(t) and torch.equal(t, copy))
            for t, known, count, copy in zip(tensors, self._tensors, self._versions, self._copies, strict=True)
        )


class Factors:
    """A cache of the latest factor with an autograd graph (`keep`) and the latest without."""

    def __init__(self) -> None:
        self._known: dict[bool, tuple[Snapshot, Factor]] = {}

    def get(self, parameters: Sequence[Tensor], keep: bool) -> Factor | None:
        """The cached factor of these parameters, if they are unchanged; else None."""
        if passing():
            return None
        factor = self._matching(parameters, keep)
        if factor is None and not keep:
            with_graph = self._matching(parameters, True)
            if with_graph is not None:
                factor = with_graph.detach()
                self.put(parameters, False, factor)
        return factor

    def put(self, parameters: Sequence[Tensor], keep: bool, factor: Factor) -> None:
        """Cache the factor, unless a transform is active, whose tensors must not outlive it."""
        if not passing():
            self._known[keep] = Snapshot(parameters), factor

    def _matching(self, parameters: Sequence[Tensor], keep: bool) -> Factor | None:
        snapshot, factor = self._known.get(keep, (None, None))
        return factor if snapshot is not None and snapshot.matches(parameters) else None

    def __reduce__(self) -> tuple[type[Factors], tuple[()]]:
        return Factors, ()  # copied or pickled tensors have new version counters, so that they are factorised again


def passing() -> bool:
    """Whether a transform, a compiler or a tracer is active, whose tensors must not outlive it."""
    return recorded() or transforming()


def _same_memory(t: Tensor, u: Tensor) -> bool:
    """Whether both are the same view of the same memory, as torch.func transforms pass views of their arguments."""
    if passing() or t.is_meta or t.dtype != u.dtype or t.device != u.device:
        return False
    return t.numel() > 0 and t.data_ptr() == u.data_ptr() and t.shape == u.shape and t.stride() == u.stride()
