"""The ledger of cells, slots and promises."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.engine.base import Adapter, Sequence, TextDecoder
from edgereason.engine.cells import Ledger
from edgereason.errors import AdapterCrossing, EngineError, NoRoomNow


def test_shared_cells_count_once_and_are_free_when_their_last_user_is_gone() -> None:
    ledger = Ledger(cells=1000, slots=8)
    prompt = ledger.new()
    ledger.grow(prompt, 100)
    streams = [ledger.fork(prompt) for _ in range(3)]
    for stream in streams:
        ledger.grow(stream, 10)
    assert ledger.used_cells == 130
    ledger.release(prompt)
    assert ledger.used_cells == 130
    for left, stream in zip((120, 110, 0), streams, strict=True):
        ledger.release(stream)
        assert ledger.used_cells == left


def test_a_parent_goes_on_without_changing_its_forks() -> None:
    ledger = Ledger(cells=1000, slots=8)
    parent = ledger.new()
    ledger.grow(parent, 5)
    child = ledger.fork(parent)
    ledger.grow(parent, 7)
    assert (parent.length, child.length, ledger.used_cells) == (12, 5, 12)
    ledger.release(parent)
    assert ledger.used_cells == 5


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["new", "fork", "grow", "trim", "release"]), st.integers(0, 9), st.integers(0, 9)
        ),
        max_size=80,
    )
)
def test_used_cells_are_the_distinct_positions_of_live_sequences(steps: list[tuple[str, int, int]]) -> None:
    ledger = Ledger(cells=10_000, slots=64)
    cells_of: dict[Sequence, list[int]] = {}  # the reference: every cell by name, in order
    fresh = iter(range(100_000))
    for step, n, m in steps:
        live = list(cells_of)
        if step == "new" and ledger_has_slot(ledger):
            cells_of[ledger.new()] = []
        elif live:
            sequence = live[n % len(live)]
            if step == "fork" and ledger_has_slot(ledger):
                cells_of[ledger.fork(sequence)] = cells_of[sequence].copy()
            elif step == "grow":
                ledger.grow(sequence, m)
                cells_of[sequence] += [next(fresh) for _ in range(m)]
            elif step == "trim":
                length = max(0, sequence.length - m)
                ledger.trim(sequence, length)
                del cells_of[sequence][length:]
            elif step == "release":
                ledger.release(sequence)
                del cells_of[sequence]
        assert ledger.used_cells == len(set().union(*cells_of.values()))
        assert all(len(cells) == sequence.length for sequence, cells in cells_of.items())
        assert len({sequence.slot for sequence in cells_of}) == len(cells_of)


def ledger_has_slot(ledger: Ledger) -> bool:
    return len(ledger.live) < ledger.slots


def test_promised_cells_are_not_promised_twice() -> None:
    ledger = Ledger(cells=100, slots=4)
    with ledger.promise(60, 2):
        assert not ledger.has_room(41, 1)
        assert not ledger.has_room(10, 3)
        assert ledger.has_room(40, 2)
        assert not ledger.is_resting
    assert ledger.has_room(100, 4)
    assert ledger.is_resting


def test_a_promise_may_take_the_place_of_another() -> None:
    ledger = Ledger(cells=100, slots=4)
    first = ledger.promise(60, 2)
    assert not ledger.has_room(90, 3)
    assert ledger.has_room(90, 3, instead_of=first)
    ledger.promise(90, 3, instead_of=first)
    assert (ledger.unpromised_cells, ledger.unpromised_slots) == (10, 1)


class Kept:
    """A sequence at rest, which leaves when it is asked to."""

    def __init__(self, ledger: Ledger, cells: int, left: list[Kept]) -> None:
        self.sequence = ledger.new()
        ledger.grow(self.sequence, cells)
        self.promise = ledger.promise(cells, 1, make_room=self.leave)
        self._ledger, self._left = ledger, left

    def leave(self) -> None:
        self._ledger.release(self.sequence)
        self.promise.close()
        self._left.append(self)


def test_kept_sequences_leave_when_their_cells_are_wanted_the_longest_kept_first() -> None:
    ledger, left = Ledger(cells=100, slots=8), list[Kept]()
    first, second, third = (Kept(ledger, 30, left) for _ in range(3))
    assert ledger.clear(10, 1, None, can_grow=False) is None
    assert left == []
    assert ledger.clear(40, 1, None, can_grow=False) is None
    assert left == [first]
    assert ledger.clear(60, 1, second.promise, can_grow=False) is None  # in its own place there is room
    assert left == [first]
    assert ledger.clear(80, 1, second.promise, can_grow=False) is None
    assert left == [first, third]


def test_beside_what_runs_nobody_leaves_for_a_room_that_there_is_not_to_be() -> None:
    ledger, left = Ledger(cells=100, slots=8), list[Kept]()
    kept = Kept(ledger, 30, left)
    ledger.promise(50, 2)
    with pytest.raises(NoRoomNow):
        ledger.clear(60, 1, None, can_grow=True)
    assert left == []
    assert ledger.clear(40, 1, None, can_grow=True) is None
    assert left == [kept]


def test_a_context_that_can_grow_gets_room_for_all_that_rest() -> None:
    ledger, left = Ledger(cells=100, slots=8), list[Kept]()
    own, other = Kept(ledger, 30, left), Kept(ledger, 40, left)
    # 100 in the place of its own 30, and the other's 40; three sequences and the other's one.
    assert ledger.clear(100, 3, own.promise, can_grow=True) == (140, 4)
    assert left == [own, other]
    assert (ledger.used_cells, ledger.is_resting) == (0, True)


def test_what_is_not_the_bases_or_not_so_long_is_not_trimmed() -> None:
    ledger = Ledger(cells=100, slots=2)
    sequence = ledger.new()
    ledger.grow(sequence, 5)
    for length in (-1, 6):
        with pytest.raises(EngineError, match="sequence of 5 tokens"):
            ledger.trim(sequence, length)
    sequence.cross(Adapter(Path("a.gguf")))
    with pytest.raises(EngineError, match="the base's"):
        ledger.trim(sequence, 4)


def test_slots_run_out_with_an_error() -> None:
    ledger = Ledger(cells=10, slots=1)
    ledger.new()
    with pytest.raises(EngineError, match="slot"):
        ledger.new()


def test_base_to_adapter_is_the_only_crossing_and_happens_once() -> None:
    first, second = Adapter(Path("a.gguf")), Adapter(Path("b.gguf"))
    sequence = Ledger(cells=10, slots=1).new()
    sequence.cross(None)
    sequence.cross(first)
    sequence.cross(first)
    for illegal in (None, second):
        with pytest.raises(AdapterCrossing, match=r"encoded under a\.gguf"):
            sequence.cross(illegal)


def test_a_fork_inherits_who_encoded_its_prefix() -> None:
    ledger = Ledger(cells=10, slots=4)
    parent = ledger.new()
    parent.cross(adapter := Adapter(Path("a.gguf")))
    assert ledger.fork(parent).encoder is adapter


@pytest.mark.parametrize("text", ["😀", "漢字かな", "é", "🏳️‍🌈 naïve 数"])
def test_text_split_at_any_byte_comes_out_whole(text: str) -> None:
    data = text.encode()
    for cut in range(len(data) + 1):
        decoder = TextDecoder()
        assert decoder.push(data[:cut]) + decoder.push(data[cut:]) + decoder.flush() == text
    single = TextDecoder()
    assert "".join(single.push(bytes([byte])) for byte in data) + single.flush() == text


def test_an_unfinished_character_is_shown_as_replacement_at_the_end_only() -> None:
    decoder = TextDecoder()
    assert decoder.push("😀".encode()[:3]) == ""
    assert decoder.flush() == "\ufffd"


ADAPTER = Adapter(Path("adapter.gguf"))


@given(st.data())
def test_what_steps_together_is_moved_together_and_nothing_is_lost(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 12))
    ledger = Ledger(cells=256 * slots, slots=slots, each=256)
    content: dict[int, Sequence] = {}  # the reference: whose cells lie in a slot
    for _ in range(data.draw(st.integers(1, 5))):
        while len(ledger.live) < slots and data.draw(st.booleans()):
            sequence = ledger.new()
            content[sequence.slot] = sequence
        alive = sorted(ledger.live, key=lambda sequence: sequence.slot)
        stepping = data.draw(st.permutations(alive)) if alive else []
        stepping = stepping[: data.draw(st.integers(0, len(stepping)))]
        cut = data.draw(st.integers(0, len(stepping)))
        for sequence in stepping[cut:]:
            sequence.encoder = ADAPTER
        for moved, slot in ledger.line_up(stepping):
            assert slot not in content  # nobody's cells are overwritten
            assert content.pop(moved.slot) is moved
            content[slot] = moved
        # Those of the adapter that comes first stand first, each batch without a gap.
        batches = [[s.slot for s in stepping if s.encoder is encoder] for encoder in (None, ADAPTER)]
        if stepping and stepping[0].encoder is ADAPTER:
            batches.reverse()
        assert sorted(batches[0]) == list(range(len(batches[0])))
        assert sorted(batches[1]) == list(range(len(batches[0]), len(stepping)))
        assert all(content[sequence.slot] is sequence for sequence in ledger.live)
        assert list(ledger.line_up(stepping)) == []  # where they are, they stay
        for sequence in [one for one in stepping if data.draw(st.booleans())]:
            ledger.release(sequence)
            del content[sequence.slot]
