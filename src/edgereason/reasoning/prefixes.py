"""Prompt KVs that are kept from one request to the next, for whoever's prompt begins alike.

::

    kept   system A ─ question 1 ─ answer ─ question 2
           system A ─ question 3
           system B ─ question 4

    system A ─ question 3                    the same prompt again: nothing to encode
    system A ─ question 3 ─ answer ─ …       goes on where it ends, and takes its place
    system A ─ question 5                    branches off behind `system A`, whose cells are shared

A prompt that others still use is branched off, never changed. Kept is what the base encoded, and nothing
that an adapter did. All prefixes are of one pipeline: one base, one KV type, one switcher, which reads along.

Cells are given up to requests that want them; the KV waits in memory then, as in `Prefix`. Beyond so many
bytes, the prompts that were used longest ago are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgereason.core.closing import Closing
from edgereason.reasoning.prefix import Prefix


class Prefixes(Closing):
    """The kept prompts of one pipeline.

    Args:
        make: an empty prefix.
        most_bytes: of all kept prompts; one that is in use stays however long it is.
    """

    def __init__(self, make: Callable[[], Prefix], most_bytes: int) -> None:
        self._make = make
        self._most_bytes = most_bytes
        self._kept: dict[Prefix, None] = {}
        """In the order of their last use."""
        self._in_use: set[Prefix] = set()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """Memory that the prompts take; of cells that several share, all their shares."""
        return sum(prefix.num_bytes for prefix in self._kept)

    def missing(self, prompt: Sequence[int]) -> int:
        """How many ids of a prompt are nowhere here."""
        return len(prompt) - max((prefix.shared(prompt) for prefix in self._kept), default=0)

    @contextmanager
    def lent(self, prompt: Sequence[int]) -> Iterator[Prefix]:
        """A prefix with as much of a prompt as is here, to become the prompt; kept afterwards."""
        prefix = self._best(prompt)
        self._kept.pop(prefix, None)
        self._kept[prefix] = None
        self._in_use.add(prefix)
        try:
            yield prefix
        finally:
            self._in_use.discard(prefix)
            self._tidy(prefix)

    def close(self) -> None:
        """Forgets everything that is not in use."""
        for prefix in self._idle():
            self._forget(prefix)

    def _best(self, prompt: Sequence[int]) -> Prefix:
        best, shared = None, 0
        for prefix in self._kept:
            if (common := prefix.shared(prompt)) > shared or (common == shared > 0 and best in self._in_use):
                best, shared = prefix, common
        if best is None:
            return self._make()
        if best in self._in_use or shared < len(best.ids):
            return best.branch(shared)
        return best

    def _tidy(self, newest: Prefix) -> None:
        """Forgets what the newest has too, what is empty, and what is too much."""
        for prefix in self._idle():
            if prefix is not newest and prefix.ids == newest.ids[: len(prefix.ids)]:
                self._forget(prefix)
        num_bytes = self.num_bytes
        for prefix in self._idle():
            if num_bytes > self._most_bytes or not (prefix.ids and prefix.is_there):
                num_bytes -= prefix.num_bytes
                self._forget(prefix)

    def _idle(self) -> list[Prefix]:
        return [prefix for prefix in self._kept if prefix not in self._in_use]

    def _forget(self, prefix: Prefix) -> None:
        del self._kept[prefix]
        prefix.close()
