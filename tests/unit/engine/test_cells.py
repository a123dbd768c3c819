"""The ledger of cells, slots and promises."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.engine.base import Adapter, Sequence, TextDecoder
from edgereason.engine.cells import Ledger
from edgereason.errors import AdapterCrossing, EngineError


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
    st.lists(st.tuples(st.sampled_from(["new", "fork", "grow", "release"]), st.integers(0, 9)), max_size=80)
)
def test_used_cells_are_the_distinct_positions_of_live_sequences(steps: list[tuple[str, int]]) -> None:
    ledger = Ledger(cells=10_000, slots=64)
    cells_of: dict[Sequence, set[int]] = {}  # the reference: every cell by name
    fresh = iter(range(100_000))
    for step, n in steps:
        live = list(cells_of)
        if step == "new" and ledger_has_slot(ledger):
            cells_of[ledger.new()] = set()
        elif live:
            sequence = live[n % len(live)]
            if step == "fork" and ledger_has_slot(ledger):
                cells_of[ledger.fork(sequence)] = set(cells_of[sequence])
            elif step == "grow":
                ledger.grow(sequence, n)
                cells_of[sequence] |= {next(fresh) for _ in range(n)}
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
        assert not ledger.is_idle
    assert ledger.has_room(100, 4)
    assert ledger.is_idle


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
