"""The command line: parse, call, print. No arithmetic, and nothing heavy is imported before a command runs."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

from mvnjac.cli.commands import app


def main() -> None:
    """The entry point: every error of ours is one sentence on standard error and an exit code, every warning one sentence."""
    with warnings.catch_warnings():
        warnings.showwarning = functools.partial(_show, warnings.showwarning)
        _run()


def _show(others: Callable[..., None], message: Warning, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning of ours as a sentence; any other as Python shows it."""
    if category.__module__ == "mvnjac.errors":
        print(f"mvnjac: warning: {message}", file=sys.stderr)
    else:
        others(message, category, *where, **more)


def _run() -> None:
    try:
        app()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        from mvnjac.errors import MvnjacError
        from mvnjac.tensors.allocation import refusal

        command = " ".join(word for word in sys.argv[1:2] if not word.startswith("-")) or "mvnjac"
        said = refusal(
            error, command, "choose fewer variables by --columns, fewer rows or fewer --workers, or give it more memory."
        )
        error = said or error
        if not isinstance(error, MvnjacError | OSError):
            raise
        print(f"mvnjac: {_sentence(error)}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def _exit_code(error: Exception) -> int:
    from mvnjac.errors import NotPositiveDefiniteError, UnknownNameError, UsageError

    if isinstance(error, NotPositiveDefiniteError):
        return 3
    return 2 if isinstance(error, UsageError | UnknownNameError) else 1
