"""A prompt's KV on the base: how far it reaches, and what the switcher has read of it.

A request has one for as long as it runs; a session keeps one from turn to turn, and encodes only what the
next prompt does not share with it::

    turn 1   ████████████                   encoded
    harder   ────────────                   the same prompt: nothing to encode
    turn 2   ────────────▒▒▒▒▒▒▒▒▒▒         answer and question are encoded, the rest is there
                         ↑ common prefix of the ids, never of the text

Only what the base encoded as a prompt is kept; what a stream said is encoded again, by the base, as part of
the next prompt. What a switcher read can't be taken back, so its state is noted after every chunk and where a
message begins, and a prompt that leaves the kept ids goes on behind the last note before that.

Between turns the engine may want the cells: the KV then waits in this process's memory and goes back when
it is next needed. What can't be put back is encoded again. Another prompt that begins alike may take a copy
of the beginning (`branch`), which shares the cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from edgereason.core.chat import Prompt
from edgereason.core.closing import Closing
from edgereason.engine import base
from edgereason.engine.base import Engine, Reservation, States
from edgereason.errors import EngineError
from edgereason.heads.base import Array, PromptReader, Switcher
from edgereason.reasoning.batch import READ_TOKENS
from edgereason.reasoning.plan import Room

Notes = Mapping[int, Mapping[str, Array]]
"""A switcher's reader's states, by how many ids it had read."""


class Prefix(Closing):
    """The KV of one prompt; a context manager.

    Args:
        engine: encodes.
        switcher: reads along, from the first token on; None if nobody will ask it.
    """

    def __init__(self, engine: Engine, switcher: Switcher | None = None) -> None:
        self._engine = engine
        self._switcher = switcher
        self._reader: PromptReader | None = None
        self._sequence: base.Sequence | None = None
        self._kept: Reservation | None = None
        self._parked: bytes | None = None
        self._source: Prefix | None = None
        self._ids: tuple[int, ...] = ()
        self._notes: dict[int, Mapping[str, Array]] = {}
        self._starts: tuple[int, ...] = ()
        self._can_sample = False
        self.fresh_tokens = 0
        """How many tokens the last `become` had to encode."""

    def branch(self, length: int) -> Prefix:
        """A prefix of its own that begins as this one does; nothing is copied before it is used.

        Args:
            length: of what it has of this one's ids, as `shared` gives it.
        """
        branch = Prefix(self._engine, self._switcher)
        branch._source, branch._ids = self, self._ids[:length]
        branch._notes = {n: state for n, state in self._notes.items() if n <= length}
        return branch

    @property
    def ids(self) -> tuple[int, ...]:
        """What is encoded."""
        return self._ids

    @property
    def notes(self) -> Notes:
        """What the switcher had read, chunk by chunk."""
        return self._notes

    @property
    def is_there(self) -> bool:
        """Whether the KV is, in the context or outside; a branch's is not before it is used."""
        return self._is_in_context or self._parked is not None

    @property
    def num_bytes(self) -> int:
        """Memory that it takes, in the context or outside."""
        note = next(iter(self._notes.values()), {})
        noted_bytes = len(self._notes) * sum(array.nbytes for array in note.values())
        return len(self._ids) * self._engine.info.kv_bytes_per_cell + noted_bytes

    @property
    def p_think(self) -> float | None:
        """What the switcher says of the ids; None without one."""
        return self._reader.p_think() if self._reader else None

    @contextmanager
    def reserved(self, room: Room) -> Iterator[None]:
        """Room for a request, the prompt's own cells and sequence among it; what is encoded stays after it.

        Raises:
            ContextOverflow, NoRoomNow: as `Engine.reserve`; nothing has changed then.
        """
        promise = self._engine.reserve(**room._asdict(), instead_of=self._kept)
        self._kept = None
        try:
            yield
        finally:
            self._can_sample = False
            promise.close()
            if self._is_in_context:
                self._kept = self._engine.keep(self.sequence, self._park)

    def shared(self, prompt: Sequence[int]) -> int:
        """How many ids of a prompt it has already."""
        common = _num_common(self._ids, tuple(prompt))
        if self._switcher is None:
            return common
        return max((length for length in self._notes if length <= common), default=0)

    def missing(self, prompt: Sequence[int]) -> int:
        """How many tokens `become` would encode."""
        return len(prompt) - self.shared(prompt)

    def become(self, prompt: Prompt, should_stop: Callable[[], bool]) -> bool:
        """Encodes what `prompt` does not share with what is encoded, and forgets what it does not have.

        Returns:
            Whether all of it is encoded (False: stopped in between; what there is stays).
        """
        return not any(done < len(prompt) and should_stop() for done in self.chunks(prompt))

    def chunks(self, prompt: Prompt, most_tokens: Callable[[], int] = lambda: READ_TOKENS) -> Iterator[int]:
        """Like `become`, a chunk at a time.

        Args:
            prompt: what is encoded in the end.
            most_tokens: of the next chunk.

        Yields:
            How many ids of the prompt are encoded: before the first chunk, and after each. The last one's
            logits are fresh, until something else is encoded.
        """
        self._unpark()
        shared = self.shared(prompt.ids)
        self._cut(shared)
        if self._switcher is not None:
            self._reader = self._switcher.reader(self._notes.get(shared))
        self._starts = prompt.starts
        self.fresh_tokens = len(prompt) - shared
        yield shared
        while len(self._ids) < len(prompt):
            self._encode(prompt.ids, most_tokens())
            yield len(self._ids)

    def sequence_to_sample(self) -> base.Sequence:
        """The prompt's sequence, its logits fresh: where they are gone, its last token is encoded again."""
        if not self._can_sample:
            last = self._ids[-1:]
            self._engine.trim(self.sequence, len(self._ids) - 1)
            try:
                self._can_sample = self._engine.encode(self.sequence, last)  # the switcher has read it
            finally:
                self._ids = self._ids[: self.sequence.length]
        return self.sequence

    @property
    def sequence(self) -> base.Sequence:
        """The prompt's sequence."""
        assert self._sequence is not None
        return self._sequence

    def state(self) -> bytes:
        """The KV as bytes, for `put_back` on an engine of the same `state_format`; b"" for no ids."""
        if self._parked is not None:
            return self._parked
        return self._engine.save(self.sequence) if self._ids else b""

    def put_back(self, ids: Sequence[int], state: bytes, notes: Notes) -> None:
        """Goes on with what another prefix's `ids`, `state` and `notes` were; nothing is encoded here yet."""
        self._ids, self._parked, self._notes = tuple(ids), state, dict(notes)

    def close(self) -> None:
        """Gives everything back. Closing twice is harmless."""
        self._give_back()
        self._parked, self._source, self._ids, self._notes = None, None, (), {}

    @property
    def _is_in_context(self) -> bool:
        return self._sequence is not None and not self._sequence.released

    def _cut(self, length: int) -> None:
        # Always: a native call that failed half way may have left cells that nobody knows of.
        self._engine.trim(self.sequence, length)
        self._ids = self._ids[:length]
        self._notes = {n: state for n, state in self._notes.items() if n <= length}
        self._can_sample = False

    def _encode(self, prompt: Sequence[int], most_tokens: int) -> None:
        start = len(self._ids)
        on_states = None if self._switcher is None else {self._switcher.layer: self._note}
        try:
            chunk = prompt[start : start + most_tokens]
            self._can_sample = self._engine.encode(self.sequence, chunk, on_states=on_states)
        finally:
            self._ids = tuple(prompt[: self.sequence.length])

    def _note(self, states: States) -> None:
        assert self._reader is not None
        end = self.sequence.length
        start = end - len(states)
        for place in (*(place for place in self._starts if start < place < end), end):
            self._reader.push(states[start + len(states) - end : place + len(states) - end])
            self._notes[place] = self._reader.state()
            start = place

    def _park(self) -> None:
        """Leaves the context: the KV waits in memory."""
        self._parked = self.state()
        self._give_back()

    def _unpark(self) -> None:
        if self._is_in_context:
            return
        ids, notes, state, source = self._ids, self._notes, self._parked, self._source
        self._parked, self._source = None, None
        self._ids, self._notes = (), {}  # what holds if anything below fails
        if source is not None and source._is_in_context:
            self._sequence = self._engine.fork(source.sequence)
            self._ids, self._notes = ids, notes
            return
        self._sequence = self._engine.new_sequence()
        length = len(ids)
        if source is not None:
            state, length = source._parked, len(source._ids)
        if state:
            with suppress(EngineError, MemoryError):
                self._engine.restore(self._sequence, state, length)
                self._ids, self._notes = ids, notes

    def _give_back(self) -> None:
        if self._sequence is not None:
            self._engine.release(self._sequence)
            self._sequence = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def _num_common(ids: tuple[int, ...], others: tuple[int, ...]) -> int:
    """How many ids both begin with; found by halves, since whole pieces are compared fast."""
    least, most = 0, min(len(ids), len(others))
    while least < most:
        middle = (least + most + 1) // 2
        if ids[least:middle] == others[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least
