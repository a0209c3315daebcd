"""The inputs and versions that an output depends on, as JSON for its manifest; a resumed run must have the same."""

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
    """The files of a table: names, sizes, and modification times."""
    files = []
    for path in source.inputs():
        found = entry(path)
        if found is None:
            raise TableError(f"{path}: no such file.")
        name = path if is_remote(path) else os.path.abspath(path)
        files.append({"path": name, "size": found.size, "changed": found.changed})
    return files


def versions() -> dict[str, str]:
    """The versions of the software that affect the numbers."""
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
    """The SHA-256 of a small file; None for None.

    Raises:
        TableError: there is no such file.
    """
    if path is None:
        return None
    if not path.is_file():
        raise TableError(f"{path}: no such file.")
    return hashlib.sha256(path.read_bytes()).hexdigest()
