"""How large a context is made for many requests: what they need, as far as the machine's memory bears it."""

from __future__ import annotations

import pytest

from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning import many
from edgereason.reasoning.many import make_room
from edgereason.reasoning.model import Model
from edgereason.reasoning.plan import Room

BYTES_PER_CELL = 64
"""Of the scripted engine."""
ROOMS = [Room(cells=100, sequences=3, longest=90), *[Room(cells=60, sequences=3, longest=50)] * 9]


class Asked(ScriptedEngine):
    """Remembers what was reserved."""

    def __init__(self, *, shares_cells: bool) -> None:
        super().__init__()
        self._shares = shares_cells
        self.asked: list[tuple[int, int, int | None]] = []

    @property
    def shares_cells(self) -> bool:
        return self._shares

    def reserve(self, *, cells, sequences, longest=None, instead_of=None):
        self.asked.append((cells, sequences, longest))
        return super().reserve(cells=cells, sequences=sequences, longest=longest, instead_of=instead_of)


def reserved(monkeypatch: pytest.MonkeyPatch, bearable_cells: int | None, *, most: int, shares_cells: bool):
    """What `make_room` asks for on a machine whose memory bears so many cells; None if it is unknown."""
    memory_bytes = None
    if bearable_cells is not None:
        memory_bytes = round(bearable_cells * BYTES_PER_CELL / many._MEMORY_SHARE) + 1
    monkeypatch.setattr(many, "memory_bytes", lambda: memory_bytes)
    engine = Asked(shares_cells=shares_cells)
    with Model(engine) as model:
        make_room(model, ROOMS, most)
    (asked,) = engine.asked
    return asked


def test_shared_cells_are_those_of_the_dearest_requests_that_run_at_a_time(monkeypatch):
    assert reserved(monkeypatch, 10_000, most=3, shares_cells=True) == (100 + 60 + 60, 9, 90)


def test_shared_cells_stay_within_memory(monkeypatch):
    assert reserved(monkeypatch, 150, most=3, shares_cells=True) == (150, 9, 90)


def test_memory_that_is_unknown_bounds_nothing(monkeypatch):
    assert reserved(monkeypatch, None, most=3, shares_cells=True) == (100 + 60 + 60, 9, 90)
    assert reserved(monkeypatch, None, most=3, shares_cells=False)[1:] == (9, 90)


def test_one_request_is_tried_however_little_memory_there_is(monkeypatch):
    assert reserved(monkeypatch, 10, most=3, shares_cells=True)[0] == 100
    assert reserved(monkeypatch, 10, most=3, shares_cells=False)[1] == 3


def test_sequences_with_cells_of_their_own_are_as_many_as_memory_bears_at_the_longest(monkeypatch):
    # 9 are wanted, each with the 90 cells of the longest
    assert reserved(monkeypatch, 9 * 90, most=3, shares_cells=False)[1:] == (9, 90)
    assert reserved(monkeypatch, 9 * 90 - 1, most=3, shares_cells=False)[1:] == (8, 90)
