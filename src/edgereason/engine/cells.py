"""Who holds which KV cells: an exact count beside llama.cpp, which keeps none that can be asked for.

::

    prompt (800 cells, 4 users)
      └─ opening (5, 4 users)
           ├─ stream 0 (120)   ├─ stream 1 (97)   …        used = 800 + 5 + 120 + 97 + …

A fork freezes the tail of its parent: both go on in segments of their own. A segment's cells are free
when its last user is gone. Promises count apart from use: whoever is promised cells may fill them later, and
must not find that another request took them.

Knows counts and slots; does not know tokens or the native cache.
"""

from __future__ import annotations

from typing import Final, Self

from edgereason.engine.base import Segment, Sequence
from edgereason.errors import EngineError

NO_ROOM: Final = (
    "no room beside the requests that still run: wait for one to end, or load with a larger context"
)


class Ledger:
    """Slots and cells of one context."""

    def __init__(self, *, cells: int, slots: int) -> None:
        self.cells = cells
        self.slots = slots
        self.used_cells = 0
        self.live: set[Sequence] = set()
        self.promises: set[Promise] = set()
        self._free_slots = list(range(slots))

    @property
    def unpromised_cells(self) -> int:
        return self.cells - sum(promise.cells for promise in self.promises)

    @property
    def unpromised_slots(self) -> int:
        return self.slots - sum(promise.slots for promise in self.promises)

    @property
    def is_idle(self) -> bool:
        """Whether nobody would notice if the context were made anew."""
        return not self.live and not self.promises

    def has_room(self, cells: int, slots: int) -> bool:
        return cells <= self.unpromised_cells and slots <= self.unpromised_slots

    def promise(self, cells: int, slots: int) -> Promise:
        """Sets cells and slots aside."""
        promise = Promise(self, cells, slots)
        self.promises.add(promise)
        return promise

    def new(self) -> Sequence:
        """A sequence in the lowest free slot."""
        sequence = Sequence(slot=self._take_slot(), segment=Segment(parent=None))
        self.live.add(sequence)
        return sequence

    def grow(self, sequence: Sequence, cells: int) -> None:
        """Notes that the sequence's tail took `cells` more cells."""
        sequence.segment.cells += cells
        sequence.length += cells
        self.used_cells += cells

    def fork(self, parent: Sequence) -> Sequence:
        """A sequence over the parent's cells."""
        if parent.released:
            raise EngineError("can't fork a released sequence")
        shared = parent.segment
        child = Sequence(
            slot=self._take_slot(),
            segment=Segment(parent=shared),
            length=parent.length,
            encoder=parent.encoder,
            logits_at=parent.logits_at,
        )
        shared.users += 1
        parent.segment = Segment(parent=shared)
        self.live.add(child)
        return child

    def release(self, sequence: Sequence) -> None:
        """Returns the slot, and the cells whose last user this was."""
        sequence.released = True
        sequence.logits_at = None
        self.live.discard(sequence)
        self._free_slots.append(sequence.slot)
        self._free_slots.sort()
        segment: Segment | None = sequence.segment
        while segment is not None:
            segment.users -= 1
            if segment.users:
                break
            self.used_cells -= segment.cells
            segment = segment.parent

    def _take_slot(self) -> int:
        if not self._free_slots:
            raise EngineError("no free sequence slot: reserve more sequences first")
        return self._free_slots.pop(0)


class Promise:
    """The ledger's `Reservation`."""

    def __init__(self, ledger: Ledger, cells: int, slots: int) -> None:
        self.cells, self.slots = cells, slots
        self._ledger = ledger

    def close(self) -> None:
        self._ledger.promises.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
