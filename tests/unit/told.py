"""A listener of long runs, for tests."""

from __future__ import annotations

from collections.abc import Sequence


class Told(list[tuple[str, float, float, str]]):
    """Notes what it is told, without details."""

    def __call__(
        self, stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()
    ) -> None:
        self.append((stage, done, total, note))
