"""What a process writes to a pseudo-terminal."""

from __future__ import annotations

import os
import re


def everything_written(terminal: int) -> str:
    """All text written until the other end is closed, with the sequences for colours and the cursor."""
    seen = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux, once the other end is closed
            break
        if not part:
            break
        seen += part
    return seen.decode()


def without_sequences(text: str) -> str:
    """The text without the sequences for colours and the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
