"""A prompt's KV on the base: how far it reaches, and what the switcher has read of it.

A request has one for as long as it runs; a session keeps one from turn to turn, and encodes only what the
next prompt does not share with it::

    turn 1   ████████████                   encoded
    harder   ────────────                   the same prompt: nothing to encode
    turn 2   ────────────▒▒▒▒▒▒▒▒▒▒         answer and question are encoded, the rest is there
                         ↑ common prefix of the ids, never of the text

Only what the base encoded as a prompt is kept; what a stream said is encoded again, by the base, as part of
the next prompt. What a switcher read can't be taken back, so its state is noted after every chunk, and a
prompt that leaves the kept ids goes on behind the last note before that.

Between turns the engine may want the cells: the KV then waits in this process's memory and goes back when
it is next needed. What can't be put back is encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from edgereason.core.closing import Closing
from edgereason.engine import base
from edgereason.engine.base import Engine, Reservation, States
from edgereason.errors import EngineError
from edgereason.heads.base import Array, PromptReader, Switcher
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
        self._ids: tuple[int, ...] = ()
        self._notes: dict[int, Mapping[str, Array]] = {}
        self._can_sample = False
        self.fresh_tokens = 0
        """How many tokens the last `become` had to encode."""

    @property
    def ids(self) -> tuple[int, ...]:
        """What is encoded."""
        return self._ids

    @property
    def notes(self) -> Notes:
        """What the switcher had read, chunk by chunk."""
        return self._notes

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
            if self._sequence is not None and not self._sequence.released:
                self._kept = self._engine.keep(self._sequence, self._park)

    def missing(self, prompt: Sequence[int]) -> int:
        """How many tokens `become` would encode."""
        return len(prompt) - self._shared(prompt)

    def become(self, prompt: Sequence[int], should_stop: Callable[[], bool]) -> bool:
        """Encodes what `prompt` does not share with what is encoded, and forgets what it does not have.

        Returns:
            Whether all of it is encoded (False: stopped in between; what there is stays).
        """
        self._unpark()
        shared = self._shared(prompt)
        self._cut(shared)
        if self._switcher is not None:
            self._reader = self._switcher.reader(self._notes.get(shared))
        rest = prompt[shared:]
        self.fresh_tokens = len(rest)
        return not rest or self._encode(rest, should_stop)

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
        self._parked, self._ids, self._notes = None, (), {}

    def _shared(self, prompt: Sequence[int]) -> int:
        """How many of the ids stay."""
        pairs = zip(self._ids, prompt, strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self._ids), len(prompt)))
        if self._switcher is None:
            return common
        return max((length for length in self._notes if length <= common), default=0)

    def _cut(self, length: int) -> None:
        # Always: a native call that failed half way may have left cells that nobody knows of.
        self._engine.trim(self.sequence, length)
        self._ids = self._ids[:length]
        self._notes = {n: state for n, state in self._notes.items() if n <= length}
        self._can_sample = False

    def _encode(self, rest: Sequence[int], should_stop: Callable[[], bool]) -> bool:
        whole = (*self._ids, *rest)
        on_states = None if self._switcher is None else {self._switcher.layer: self._note}
        try:
            self._can_sample = self._engine.encode(
                self.sequence, rest, on_states=on_states, should_stop=should_stop
            )
        finally:
            self._ids = whole[: self.sequence.length]
        return self._can_sample

    def _note(self, states: States) -> None:
        assert self._reader is not None
        self._reader.push(states)
        self._notes[self.sequence.length] = self._reader.state()

    def _park(self) -> None:
        """Leaves the context: the KV waits in memory."""
        self._parked = self.state()
        self._give_back()

    def _unpark(self) -> None:
        if self._sequence is not None and not self._sequence.released:
            return
        ids, notes, state = self._ids, self._notes, self._parked
        self._ids, self._notes, self._parked = (), {}, None  # what holds if anything below fails
        self._sequence = self._engine.new_sequence()
        if state:
            with suppress(EngineError, MemoryError):
                self._engine.restore(self._sequence, state, len(ids))
                self._ids, self._notes = ids, notes

    def _give_back(self) -> None:
        if self._sequence is not None:
            self._engine.release(self._sequence)
            self._sequence = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None
