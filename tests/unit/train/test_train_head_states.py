"""Splits by hand, and a journal of states that survives a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgereason.errors import ConfigError
from edgereason.train.heads.cross_validation import grouped, passages, stratified
from edgereason.train.heads.prompt_states import PromptRow
from edgereason.train.heads.record import STATES, StateJournal
from edgereason.train.heads.trace_states import Recorder


def row(number: int) -> PromptRow:
    return PromptRow(sha256=f"{number:064d}", id=str(number), source="s", num_tokens=number)


def fill(folder: Path, *numbers: int) -> None:
    with StateJournal(folder, PromptRow, 3) as journal:
        for number in numbers:
            journal.append([row(number)], np.full((1, 3), number, np.float32))


def test_states_stand_where_their_rows_do_and_are_added_to(tmp_path: Path) -> None:
    fill(tmp_path, 4, 7)
    with StateJournal(tmp_path, PromptRow, 3) as journal:
        journal.append([row(1), row(2)], np.array([[1, 1, 1], [2, 2, 2]], np.float32))
        assert [one.num_tokens for one in journal.rows] == [4, 7, 1, 2]
        np.testing.assert_array_equal(journal.states(), np.array([[4, 7, 1, 2]]).T * np.ones(3))
    assert (tmp_path / STATES).stat().st_size == 4 * 3 * 4


def test_a_state_whose_row_a_kill_prevented_is_cut_off(tmp_path: Path) -> None:
    fill(tmp_path, 4, 7)
    with (tmp_path / STATES).open("ab") as file:
        file.write(b"half a state")
    with StateJournal(tmp_path, PromptRow, 3) as journal:
        assert journal.states()[:, 0].tolist() == [4, 7]
        journal.append([row(5)], np.full((1, 3), 5, np.float32))
        assert journal.states()[:, 0].tolist() == [4, 7, 5]


def test_rows_without_their_states_are_refused_and_the_folder_is_let_go(tmp_path: Path) -> None:
    fill(tmp_path, 4, 7)
    with (tmp_path / STATES).open("r+b") as file:
        file.truncate(20)
    for _ in range(2):  # the second one is not told that another process writes here
        with pytest.raises(ConfigError, match=r"states\.f32 has 20 bytes, its rows need 24"):
            StateJournal(tmp_path, PromptRow, 3)


def test_every_part_has_the_same_share_of_every_source() -> None:
    sources = ["a"] * 20 + ["b"] * 40 + ["c"] * 3
    parts = stratified(sources, (0.25, 0.1), seed=0)
    assert sorted(np.concatenate(parts)) == list(range(63))
    counts = [[sum(sources[i] == name for i in part) for name in "abc"] for part in parts]
    assert counts == [[13, 26, 3], [5, 10, 0], [2, 4, 0]]
    assert np.array_equal(parts[1], stratified(sources, (0.25, 0.1), 0)[1])
    assert not np.array_equal(parts[1], stratified(sources, (0.25, 0.1), 1)[1])


def test_many_small_sources_give_a_part_its_share_too() -> None:
    sources = [f"s{n // 4}" for n in range(40)]  # a fifth of each is less than one row
    rest, part = stratified(sources, (0.2,), seed=0)
    assert (len(rest), len(part)) == (32, 8)
    assert len({sources[i] for i in part}) == 8


def test_a_group_stays_on_one_side_and_no_part_gets_more_than_its_share() -> None:
    groups = [f"g{n // 7}" for n in range(70)]
    parts = stratified(["a"] * 70, (0.25, 0.25), seed=3, groups=groups)
    assert [len(part) for part in parts] == [42, 14, 14]  # 17.5 rows hold two groups of seven
    assert sum(len({groups[i] for i in part}) for part in parts) == 10


PARAGRAPH = "the cat sat on the old brown mat near the open kitchen door all day"


def test_questions_about_one_paragraph_are_connected_and_their_format_is_not() -> None:
    texts = [f"{PARAGRAPH}. Question {n}?" for n in range(3)] + ["Something else entirely, asked briefly?"]
    assert len(set(passages(texts, ["squad"] * 4)[:3])) == 1
    assert len(set(passages(texts, ["squad"] * 4))) == 2
    # chained: the second shares its beginning with the first and its end with the third
    other = "a dog ran far along the wet road behind the red barn until noon came"
    chained = [PARAGRAPH, f"{PARAGRAPH} {other}", other]
    assert len(set(passages(chained, ["squad"] * 3))) == 1
    # rows of another source are nobody's neighbours
    assert len(set(passages(texts[:2], ["squad", "other"]))) == 2
    # what 30 of 60 have in common is how the source asks
    asked = [f"{PARAGRAPH}. Number {n}?" for n in range(30)] + [f"What is {n}?" for n in range(30)]
    assert len(set(passages(asked, ["bbh"] * 60))) == 60


def test_rows_of_a_group_share_their_part_and_parts_get_as_many_groups() -> None:
    groups = [f"q{n % 11}" for n in range(80)]
    parts = grouped(groups, 3, seed=5)
    part_of = {group: set(parts[[g == group for g in groups]].tolist()) for group in set(groups)}
    assert all(len(found) == 1 for found in part_of.values())
    sizes = [sum(found == {part} for found in part_of.values()) for part in range(3)]
    assert sorted(sizes) == [3, 4, 4]


def test_a_recorder_gives_tickets_and_each_state_back_once() -> None:
    recorder = Recorder((-2,), (1, 2))
    states = np.arange(10, dtype=np.float32).reshape(5, 2)
    first, second = recorder.score(states[:3]), recorder.score(states[3:])
    assert (first.tolist(), second.tolist()) == ([0, 1, 2], [3, 4])
    assert (recorder.layers, recorder.prompt_ids) == ((-2,), (1, 2))
    for ticket in (4.0, 0.0, 2.0):
        np.testing.assert_array_equal(recorder.take(ticket), states[int(ticket)])
    with pytest.raises(KeyError):
        recorder.take(2.0)
