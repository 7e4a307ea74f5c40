"""What is done about data that can't be used: refuse it by name, or skip it and count."""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections import Counter
from pathlib import Path
from typing import Literal

EXAMPLES = 5
"""How many problems a summary quotes."""


class DataError(ValueError):
    """A data set is missing or malformed; the message names file and line."""


class Problems:
    """Collects what is wrong with a data set, also what processes meet that are forked to read it.

    What is met again at the same place counts once.

    Args:
        policy: ``refuse`` raises at the first problem, ``skip`` counts it and lets the reader go on without the datum.
    """

    def __init__(self, policy: Literal["refuse", "skip"] = "refuse") -> None:
        if policy not in ("refuse", "skip"):
            raise DataError(f"expected the policy 'refuse' or 'skip' for bad data, got {policy!r}")
        self.policy = policy
        # Forked processes share the file and append whole lines to it.
        self._log, name = tempfile.mkstemp(prefix="dartblur-problems-")
        Path(name).unlink()
        weakref.finalize(self, os.close, self._log)
        self._noted: set[tuple[str, str]] = set()

    @property
    def kinds(self) -> Counter[str]:
        """How often each kind of problem was met."""
        return Counter(what.partition(":")[0] for _, what in self._all())

    @property
    def count(self) -> int:
        """Number of problems so far."""
        return len(self._all())

    def report(self, where: str, what: str) -> None:
        """Takes a problem.

        Args:
            where: file and line, or file and number of the annotation.
            what: ``kind: expected ..., got ...``; what stands before the first colon is the kind that is counted.

        Raises:
            DataError: the policy is to refuse.
        """
        if self.policy == "refuse":
            raise DataError(f"{where}: {what}. Mend it, or leave such data out with --on-bad-data skip")
        self.note(where, what)

    def note(self, where: str, what: str) -> None:
        """Counts what is known to occur in a published data set and is therefore never refused."""
        if (where, what) not in self._noted:
            self._noted.add((where, what))
            os.write(self._log, json.dumps([where, what]).encode() + b"\n")

    def summary(self) -> str:
        """Counts by kind, and the first few examples, a line each."""
        problems = self._all()
        if not problems:
            return "no problem in the data"
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.kinds.most_common())
        examples = [f"  {where}: {what}" for where, what in problems[:EXAMPLES]]
        return "\n".join([f"{len(problems)} problems in the data: {kinds}", *examples])

    def _all(self) -> list[tuple[str, str]]:
        """Where and what, in the order in which they were met."""
        size = os.fstat(self._log).st_size
        lines = os.pread(self._log, size, 0).splitlines()
        return list(dict.fromkeys((where, what) for where, what in map(json.loads, lines)))
