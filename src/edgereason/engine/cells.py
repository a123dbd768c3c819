"""Who holds which KV cells: an exact count beside llama.cpp, which keeps none that can be asked for.

::

    prompt (800 cells, 4 users)
      └─ opening (5, 4 users)
           ├─ stream 0 (120)   ├─ stream 1 (97)   …        used = 800 + 5 + 120 + 97 + …

A fork freezes the tail of its parent: both go on in segments of their own. A segment's cells are free
when its last user is gone. Promises count apart from use: whoever is promised cells may fill them later, and
must not find that another request took them. A kept sequence has a promise too, which it gives up when the
cells are wanted.

Where every slot has cells of its own, a promise is over whole slots. llama.cpp computes sequences together
only if their slots follow each other, and others between those that step would split their batch: they are
moved to the lowest slots (`line_up`), and new ones begin in the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from edgereason.core.closing import Closing
from edgereason.engine.base import Adapter, Reservation, Segment, Sequence, require_base
from edgereason.errors import EngineError, NoRoomNow

NO_ROOM: Final = (
    "no room beside the requests that still run: read the events of one to their end or close them first; "
    "AsyncModel answers several at a time"
)


class Ledger:
    """Slots and cells of one context.

    Args:
        cells: of all slots.
        slots: how many sequences there can be.
        each: cells of every slot; 0 where all share the context's. There is a slot more then, which nobody is
            promised, to move sequences by.
    """

    def __init__(self, *, cells: int, slots: int, each: int = 0) -> None:
        self.cells = cells
        self.slots = slots
        self.each = each
        self.used_cells = 0
        self.live: set[Sequence] = set()
        self.promises: dict[Promise, None] = {}
        """In the order in which they were made."""
        self._free_slots = list(range(slots + bool(each)))

    @property
    def unpromised_cells(self) -> int:
        return self.cells - sum(promise.cells for promise in self.promises)

    @property
    def unpromised_slots(self) -> int:
        return self.slots - sum(promise.slots for promise in self.promises)

    @property
    def kept_cells(self) -> int:
        """Promised to sequences that would leave."""
        return sum(promise.cells for promise in self.promises if promise.make_room)

    @property
    def is_resting(self) -> bool:
        """Whether all there is are kept sequences, each of which would leave: nothing runs."""
        return all(p.make_room for p in self.promises) and len(self.live) == len(self.promises)

    def has_room(
        self, cells: int, slots: int, instead_of: Reservation | None = None, *, each: int = 0
    ) -> bool:
        return each <= self.each and self._can_free(cells, slots, {instead_of})

    def _can_free(self, cells: int, slots: int, without: set[Reservation | None]) -> bool:
        """Whether there would be room without these promises."""
        given_up = [promise for promise in self.promises if promise in without]
        free_cells = self.unpromised_cells + sum(promise.cells for promise in given_up)
        free_slots = self.unpromised_slots + sum(promise.slots for promise in given_up)
        return cells <= free_cells and slots <= free_slots

    def clear(
        self, cells: int, slots: int, instead_of: Reservation | None, *, can_grow: bool, each: int = 0
    ) -> tuple[int, int] | None:
        """Sees to it that there is room: kept sequences leave, those that rest longest first.

        A context that can grow is rather made anew with room for those, too, than crowded.

        Returns:
            None if there is room; else the cells and slots that a new context needs. Nothing lives here then.

        Raises:
            NoRoomNow: something runs, and there is no room beside it; nobody has left then.
        """
        if self.has_room(cells, slots, instead_of, each=each):
            return None
        kept = [promise for promise in self.promises if promise.make_room]
        others = [promise for promise in kept if promise is not instead_of]
        if not (can_grow and self.is_resting):
            could = each <= self.each and self._can_free(cells, slots, {instead_of, *others})
            if not self.is_resting and not could:
                raise NoRoomNow(NO_ROOM)
            for promise in others:
                promise.leave()
                if self.has_room(cells, slots, instead_of, each=each):
                    return None
        for promise in kept:
            promise.leave()
        return cells + sum(p.cells for p in others), slots + sum(p.slots for p in others)

    def promise(
        self,
        cells: int,
        slots: int,
        *,
        instead_of: Reservation | None = None,
        make_room: Callable[[], None] | None = None,
    ) -> Promise:
        """Sets cells and slots aside; see `Engine.reserve` and `Engine.keep`."""
        if instead_of is not None:
            instead_of.close()
        promise = Promise(self, cells, slots, make_room)
        self.promises[promise] = None
        return promise

    def new(self) -> Sequence:
        """A sequence in the highest free slot."""
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
        if shared.cells == 0 and shared.parent is not None:  # forked before, and not grown since
            shared = shared.parent
        child = Sequence(
            slot=self._take_slot(),
            segment=Segment(parent=shared),
            length=parent.length,
            encoder=parent.encoder,
            logits_at=parent.logits_at,
        )
        shared.users += 1
        if shared is parent.segment:
            parent.segment = Segment(parent=shared)
        self.live.add(child)
        return child

    def trim(self, sequence: Sequence, length: int) -> None:
        """Returns the cells behind the first `length`, but for those that forks use."""
        require_base(sequence)
        if not 0 <= length <= sequence.length:
            raise EngineError(f"can't trim a sequence of {sequence.length} tokens to {length}")
        # Down to the segment in which the cut is, which is split there if others use it as it is.
        tail, start = sequence.segment, sequence.length - sequence.segment.cells
        segment: Segment | None = tail
        while segment is not None and start > length:
            segment = segment.parent
            start -= segment.cells if segment else 0
        if segment is not None and start < length < start + segment.cells:
            lower = Segment(parent=segment.parent, cells=length - start)
            segment.parent, segment.cells = lower, segment.cells - lower.cells
            segment = lower
        elif start == length and segment is not None:
            segment = segment.parent
        sequence.segment, sequence.length, sequence.logits_at = Segment(parent=segment), length, None
        if segment is not None:
            segment.users += 1
        self._leave(tail)

    def release(self, sequence: Sequence) -> None:
        """Returns the slot, and the cells whose last user this was."""
        sequence.released = True
        sequence.logits_at = None
        self.live.discard(sequence)
        self._free_slots.append(sequence.slot)
        self._free_slots.sort()
        self._leave(sequence.segment)

    def line_up(self, stepping: Iterable[Sequence]) -> Iterator[tuple[Sequence, int]]:
        """Moves that bring sequences under the same adapter together, from slot 0 on.

        The caller copies the cells of each sequence to the slot beside it, before asking for the next.

        Args:
            stepping: sequences that step together.
        """
        batches: dict[Adapter | None, list[Sequence]] = {}
        for sequence in stepping:
            batches.setdefault(sequence.encoder, []).append(sequence)
        in_slot, start = {sequence.slot: sequence for sequence in self.live}, 0
        for sequences in batches.values():
            window = range(start, start := start + len(sequences))
            strays = [sequence for sequence in sequences if sequence.slot not in window]
            others = [slot for slot in window if in_slot.get(slot) not in sequences]
            # Free slots first: each that is filled frees one behind the window, for whoever has to leave it.
            for sequence, slot in zip(strays, sorted(others, key=in_slot.__contains__), strict=True):
                moves = [(sequence, slot)]
                if slot in in_slot:
                    moves.insert(0, (in_slot[slot], self._free_slots[-1]))
                for moved, target in moves:
                    yield moved, target
                    self._free_slots.remove(target)
                    self._free_slots.append(moved.slot)
                    self._free_slots.sort()
                    del in_slot[moved.slot]
                    moved.slot, in_slot[target] = target, moved

    def _leave(self, tail: Segment) -> None:
        segment: Segment | None = tail
        while segment is not None:
            segment.users -= 1
            if segment.users:
                break
            self.used_cells -= segment.cells
            segment = segment.parent

    def _take_slot(self) -> int:
        if not self._free_slots:
            raise EngineError("no free sequence slot: reserve more sequences first")
        return self._free_slots.pop()


class Promise(Closing):
    """The ledger's `Reservation`."""

    def __init__(self, ledger: Ledger, cells: int, slots: int, make_room: Callable[[], None] | None) -> None:
        self.cells, self.slots = cells, slots
        self.make_room = make_room
        self._ledger = ledger

    def leave(self) -> None:
        """Makes room, if that has not been done yet."""
        if self.make_room is not None and self in self._ledger.promises:
            self.make_room()

    def close(self) -> None:
        self._ledger.promises.pop(self, None)
