"""A listener of long runs, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from edgereason.records.context import RunContext


class Told(list[tuple[str, float, float, str]]):
    """Notes what it is told, without details."""

    def __call__(
        self, stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()
    ) -> None:
        self.append((stage, done, total, note))

    def stopping_after(self, count: int) -> RunContext:
        """The context of a run that is stopped once this was told more than `count` times."""
        return RunContext(progress=self, should_stop=lambda: len(self) > count)
