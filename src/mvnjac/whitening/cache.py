"""What was computed from tensors, found again as long as these are the same and unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvnjac.tensors.tracing import is_on_host, recorded, transforming, version
from mvnjac.whitening.factor import Factor


class Snapshot:
    """Some tensors as they are now: `matches` says whether others are the same memory, not written to since.

    Inference tensors count no changes: a copy of their numbers is kept, and compared.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors, self._versions = list(tensors), [version(t) for t in tensors]
        self._copies = [t.clone() if count is None else None for t, count in zip(tensors, self._versions, strict=True)]

    def __reduce__(self) -> tuple[type[Snapshot], tuple[list[Tensor]]]:
        return Snapshot, ([],)  # a copy of a tensor counts its changes from zero: a copy of the snapshot matches nothing

    def matches(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the tensors of the snapshot, unchanged."""
        return len(tensors) == len(self._tensors) and all(
            (t is own or _same_memory(t, own))
            and (version(t) == then if copy is None else is_on_host(t) and torch.equal(t, copy))
            for t, own, then, copy in zip(tensors, self._tensors, self._versions, self._copies, strict=True)
        )


class Factors:
    """The factor of some parameters, with its graph (`keep`) and without: the latest of each."""

    def __init__(self) -> None:
        self._known: dict[bool, tuple[Snapshot, Factor]] = {}

    def get(self, parameters: Sequence[Tensor], keep: bool) -> Factor | None:
        """The factor of these very numbers, if there is one."""
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
        """Remember it, unless what is computed now lives only as long as a transform does."""
        if not passing():
            self._known[keep] = Snapshot(parameters), factor

    def _matching(self, parameters: Sequence[Tensor], keep: bool) -> Factor | None:
        snapshot, factor = self._known.get(keep, (None, None))
        return factor if snapshot is not None and snapshot.matches(parameters) else None

    def __reduce__(self) -> tuple[type[Factors], tuple[()]]:
        return Factors, ()  # what is copied or pickled is factorised anew: its tensors count their changes from zero


def passing() -> bool:
    """Whether a transform, a compiler or a tracer is active, whose tensors live only as long as it does."""
    return recorded() or transforming()


def _same_memory(t: Tensor, u: Tensor) -> bool:
    """Two views of the same numbers: transforms of torch.func hand on views of what they were given."""
    if passing() or t.is_meta or t.dtype != u.dtype or t.device != u.device:
        return False
    return t.numel() > 0 and t.data_ptr() == u.data_ptr() and t.shape == u.shape and t.stride() == u.stride()
