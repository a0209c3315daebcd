"""What an output is made from, as JSON: a manifest holds it, and a run that goes on must be made from the same."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mvnjac.covariance.base import Covariance
from mvnjac.engines.unit import Job
from mvnjac.errors import TableError
from mvnjac.tables.base import Source
from mvnjac.tables.storage import entry, is_remote


def input_files(source: Source) -> list[dict[str, Any]]:
    """What the table is read from: names, sizes, when they were changed."""
    files = []
    for path in source.inputs():
        there = entry(path)
        if there is None:
            raise TableError(f"{path}: no such file.")
        name = path if is_remote(path) else os.path.abspath(path)
        files.append({"path": name, "size": there.size, "changed": there.changed})
    return files


def versions() -> dict[str, str]:
    """Of what the numbers come from."""
    import numpy
    import pyarrow
    import torch

    import mvnjac
    from mvnjac import kernels

    return {
        "mvnjac": mvnjac.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pyarrow": pyarrow.__version__,
        "kernels": kernels.why_not() or "compiled",
    }


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of some tensors, bit by bit."""
    sha = hashlib.sha256()
    for name, value in tensors.items():
        sha.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def digest_of_file(path: Path | None) -> str | None:
    """The SHA-256 of a small file; None of none.

    Raises:
        TableError: it is not there.
    """
    if path is None:
        return None
    if not path.is_file():
        raise TableError(f"{path}: no such file.")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def described(job: Job) -> dict[str, Any]:
    """What a job does with the rows that it is given: its fields, numbers by their digests."""
    return {"job": type(job).__name__, **_described(job)}


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return digest({"": value})
    if isinstance(value, Covariance):
        return {"structure": repr(value), "parameters": digest(value.parameters)}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.name != "data"]  # the table is said elsewhere
        return {name: _described(getattr(value, name)) for name in names}
    return list(value) if isinstance(value, tuple) else value
