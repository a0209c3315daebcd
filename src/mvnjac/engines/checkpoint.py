"""Checkpoints of a command: the sums of its passes over a table, written to a folder while they are computed.

Each pass has a subfolder, `pass-001` and so on, with a manifest and records like those of a folder of parts, but without
parts. A resumed command makes the same passes and computes only the sums that are missing. A pass with another question is
restarted, for example if a search took other steps on another kind of machine. The manifest of the folder describes the
command.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mvnjac.engines.driver import Outcome
from mvnjac.engines.folder import Folder
from mvnjac.engines.job import Result
from mvnjac.engines.manifest import PASSES, Journal, claim_folder, pass_folders, pass_name, remove_output
from mvnjac.tables.storage import child

#: (record, known) → the outcome of a pass
Drive = Callable[[Callable[[Result], None], Iterable[Result]], Outcome]


class Checkpoint:
    """A folder with the sums of a command's passes.

    Args:
        path: the folder.
        about: a description of the command, as JSON.
        resume: continue with the sums in the folder.
        force: replace an earlier checkpoint.

    Raises:
        UsageError: the folder contains something else or, with `resume`, the checkpoint of another command.
    """

    def __init__(self, path: str, about: Mapping[str, Any], resume: bool, force: bool) -> None:
        self._folder, self._passes, self._begun = claim_folder(path, resume, force), 0, resume
        self._journal = Journal(self._folder, {**about, PASSES: True}, 0)
        self._command_digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        if resume:
            self._journal.resume()

    def run(self, about: Mapping[str, Any], units: int, drive: Drive) -> Outcome:
        """Run the next pass, over this many units; `about` describes it, as JSON."""
        if not self._begun:
            remove_output(self._folder)
            self._journal.begin()
            self._begun = True
        self._passes += 1
        folder = Folder(child(self._folder.path, pass_name(self._passes)))
        # The digest of the command distinguishes this pass from one that another command has left.
        journal = Journal(folder, {"of": self._command_digest, **about}, units)
        known: Iterable[Result] = ()
        if journal.describes_folder():
            known = journal.resume()
        else:
            remove_output(folder)
            journal.begin()
        with journal.recording():
            outcome = drive(journal.record, known)
        journal.complete({"rows": outcome.rows})
        return outcome

    def complete(self) -> None:
        """Mark the checkpoint as complete, and remove passes of an earlier, longer search."""
        if not self._begun:
            return
        for name in pass_folders(self._folder)[self._passes :]:
            remove_output(Folder(child(self._folder.path, name)))
        self._journal.complete({"passes": self._passes})
