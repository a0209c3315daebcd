"""The outputs of `mvnjac jacobian`: a table of scores, their sums, a folder of parts, or the head of one of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvnjac.cli import head_output
from mvnjac.cli.printing import terminal_width
from mvnjac.engines.run import Run
from mvnjac.jobs import commands, partitioned
from mvnjac.jobs.commands import Written
from mvnjac.jobs.data import Data
from mvnjac.jobs.density import Request
from mvnjac.jobs.head import jacobian_head


@dataclass(frozen=True)
class JacobianOutput:
    """What is asked for: the table, the density, the columns, and what runs it.

    The argument `sums` of the methods is the option " --sum-only" or " --gram", or "" for rows.
    """

    data: Data
    request: Request
    names: Sequence[str] | None
    layout: str
    run: Run

    def parts(self, folder: str, suffix: str, resume: bool, force: bool) -> Written:
        """Write a folder of parts."""
        return partitioned.write_parts(
            self.data, self.request, self.names, self.layout, folder, suffix, self.run, resume=resume, force=force
        )

    def write(self, file: Path | None, sums: str) -> Written:
        """Write a file; None: CSV to standard output."""
        if not sums:
            return commands.write_jacobian(self.data, self.request, self.names, self.layout, file, self.run)
        write = commands.write_gram if sums == " --gram" else commands.sum_scores
        return write(self.data, self.request, self.names, file, self.run)

    def head(self, sums: str) -> list[str]:
        """The lines of the head of a table, for the terminal."""
        width = terminal_width()
        if sums:
            found = commands.summed(self.data, self.request, self.names, self.run, gram=sums == " --gram")
            return head_output.lines_of(head_output.head_of(found, width), width)
        columns = head_output.most_columns(width)
        head = jacobian_head(self.data, self.request, self.names, self.layout, self.run, head_output.ROWS, columns)
        return head_output.lines_of(head, width)
