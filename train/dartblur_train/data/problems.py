"""What is done about data that can't be used: refuse it by name, or skip it and count."""

from __future__ import annotations

from collections import Counter
from typing import Literal

EXAMPLES = 5
"""How many problems a summary quotes."""


class DataError(ValueError):
    """A data set is missing or malformed; the message names file and line."""


class Problems:
    """Collects what is wrong with a data set.

    Args:
        policy: ``refuse`` raises at the first problem, ``skip`` counts it and lets the reader go on without the datum.

    Attributes:
        kinds: how often each kind of problem was met.
    """

    def __init__(self, policy: Literal["refuse", "skip"] = "refuse") -> None:
        if policy not in ("refuse", "skip"):
            raise DataError(f"expected the policy 'refuse' or 'skip' for bad data, got {policy!r}")
        self.policy = policy
        self.kinds: Counter[str] = Counter()
        self._examples: list[str] = []

    @property
    def count(self) -> int:
        """Number of problems so far."""
        return self.kinds.total()

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
        self.kinds[what.partition(":")[0]] += 1
        if len(self._examples) < EXAMPLES:
            self._examples.append(f"{where}: {what}")

    def summary(self) -> str:
        """Counts by kind, and the first few examples, a line each."""
        if not self.kinds:
            return "no problem in the data"
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.kinds.most_common())
        return "\n".join([f"{self.count} problems in the data: {kinds}", *(f"  {text}" for text in self._examples)])
