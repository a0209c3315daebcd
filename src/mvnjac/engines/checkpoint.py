"""The sums of a command's passes, kept in a folder as they come: a command that goes on adds up again what is there.

Every pass has a folder of its own, `pass-001` and so on, with a manifest and records like a folder of parts, but no parts. A command
makes the same passes again when it is called again; a pass whose question is another (a search that took another way on another
kind of machine) is begun anew. The manifest of the whole says what the command was asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mvnjac.engines.driver import Outcome
from mvnjac.engines.folder import Folder
from mvnjac.engines.job import Result
from mvnjac.engines.manifest import PASSES, Journal, claimed, clear, pass_name, passes
from mvnjac.tables.storage import child

#: (record, known) → the outcome of a pass
Drive = Callable[[Callable[[Result], None], Iterable[Result]], Outcome]


class Checkpoint:
    """A folder of passes.

    about: what the command is, as JSON; resume: go on with what is there; force: replace it.

    Raises:
        UsageError: the folder holds something else, or (`resume`) the beginning of another command.
    """

    def __init__(self, path: str, about: Mapping[str, Any], resume: bool, force: bool) -> None:
        self._folder, self._passes, self._begun = claimed(path, resume, force), 0, resume
        self._journal = Journal(self._folder, {**about, PASSES: True}, 0)
        self._of = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        if resume:
            self._journal.resume()

    def run(self, about: Mapping[str, Any], units: int, drive: Drive) -> Outcome:
        """The next pass, about this question, over so many units."""
        if not self._begun:
            clear(self._folder)
            self._journal.begin()
            self._begun = True
        self._passes += 1
        folder = Folder(child(self._folder.path, pass_name(self._passes)))
        # what another command may have left is never taken for this one's
        journal = Journal(folder, {"of": self._of, **about}, units)
        known: Iterable[Result] = ()
        if journal.goes_on():
            known = journal.resume()
        else:
            clear(folder)
            journal.begin()
        with journal.kept():
            outcome = drive(journal.record, known)
        journal.complete({"rows": outcome.rows})
        return outcome

    def complete(self) -> None:
        """The command has all it wanted."""
        if not self._begun:
            return
        for name in passes(self._folder)[self._passes :]:  # of a search that took a longer way before
            clear(Folder(child(self._folder.path, name)))
        self._journal.complete({"passes": self._passes})
