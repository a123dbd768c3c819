"""A process that is killed in the middle of a run, for tests of what the next one makes of its files."""

from __future__ import annotations

from collections.abc import Sequence

from edgereason.engine.base import Feed, Sampled
from edgereason.engine.scripted import ScriptedEngine


class Killed(Exception):
    pass


class MortalEngine(ScriptedEngine):
    """Dies at a given step, in the middle of whatever runs."""

    def __init__(self, replies: Sequence[str], *, steps: int) -> None:
        super().__init__(replies)
        self.steps_left = steps

    def step(self, feeds: list[Feed]) -> list[Sampled]:  # type: ignore[override]
        self.steps_left -= 1
        if self.steps_left < 0:
            raise Killed
        return super().step(feeds)
