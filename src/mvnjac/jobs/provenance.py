"""What an output is made from, as JSON: a manifest holds it, and a run that goes on must be made from the same."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from mvnjac._version import __version__
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

    from mvnjac import kernels

    return {
        "mvnjac": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "pyarrow": pyarrow.__version__,
        "kernels": kernels.why_not() or "compiled",
    }


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
