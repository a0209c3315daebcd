"""The command line: it parses options, calls `jobs` and `report`, and prints. Interface: `main`.

It may use all other packages. Heavy modules are imported only when a command runs, so that --help is fast.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

from mvnjac.cli.commands import app


def main() -> None:
    """The entry point. Errors and warnings of mvnjac are printed as one line on standard error; errors set the exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
        _run()


def _show_warning(default: Callable[..., None], message: Warning, category: type[Warning], *where: Any, **more: Any) -> None:
    """Print a warning of mvnjac as one line, and any other warning as usual."""
    if category.__module__ == "mvnjac.errors":
        print(f"mvnjac: warning: {message}", file=sys.stderr)
    else:
        default(message, category, *where, **more)


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
        advice = "select fewer variables with --columns, use fewer rows or fewer --workers, or provide more memory."
        error = refusal(error, command, advice) or error
        if not isinstance(error, MvnjacError | OSError):
            raise
        print(f"mvnjac: {_message(error)}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def _exit_code(error: Exception) -> int:
    from mvnjac.errors import NotPositiveDefiniteError, UnknownNameError, UsageError

    if isinstance(error, NotPositiveDefiniteError):
        return 3
    return 2 if isinstance(error, UsageError | UnknownNameError) else 1
