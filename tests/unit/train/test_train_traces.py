"""The schema of traces, its files, and how long a trace is."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgereason.core.chat import Seams
from edgereason.core.types import Message
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError
from edgereason.records.folder import RECORD, RunFolder
from edgereason.train.data.traces import (
    FORMAT,
    TRACES,
    Lengths,
    Seen,
    TraceRow,
    finish_traces,
    length_summary,
    read_traces,
    write_traces,
)

TRACE = TraceRow(
    id="q/0",
    messages=(Message("system", "Be kind."), Message("user", "2+2?")),
    thinking="2+2=4.",
    answer="The final answer is 4.",
    source="sums.jsonl",
    num_tokens=39,
    reference="4",
)
ROW = {"messages": [{"role": "user", "content": "2+2?"}], "thinking": "It is 4.", "answer": "4."}


def test_what_is_written_is_read_back_and_is_one_plain_object_a_line(tmp_path: Path) -> None:
    traces = (TRACE, replace(TRACE, id="q/1", thinking="Größe\u2028× 2", num_tokens=None, reference=None))
    write_traces(tmp_path / "t.jsonl", traces)
    assert read_traces(tmp_path / "t.jsonl").traces == traces
    first = json.loads((tmp_path / "t.jsonl").read_text().split("\n")[0])
    assert first == {
        "id": "q/0",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "2+2?"}],
        "thinking": "2+2=4.",
        "answer": "The final answer is 4.",
        "source": "sums.jsonl",
        "num_tokens": 39,
        "reference": "4",
    }


BROKEN = [
    ({"thinking": 4}, "bad_thinking", "thinking is not a text"),
    ({"answer": {"text": "4"}}, "bad_answer", "answer is not a text"),
    ({"messages": []}, "bad_messages", "messages is not a conversation"),
    ({"messages": None}, "bad_messages", "messages is null"),
    ({"messages": ["2+2?"]}, "bad_messages", "messages[0] is not a turn"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "bad_messages", "messages[0].role is 'tool'"),
    ({"messages": [{"role": "user", "content": " "}]}, "bad_messages", "messages[0].content is empty"),
    (
        {"messages": [{"role": "system", "content": ""}, *ROW["messages"]]},
        "bad_messages",
        "messages[0].content",
    ),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "bad_messages", "messages end with"),
    ({"num_tokens": "39"}, "bad_num_tokens", "num_tokens is '39'"),
    ({"id": 1.5}, "bad_id", "id is a number; expected a text"),
    ({"id": [1]}, "bad_id", "id is a list"),
    ({"id": " "}, "bad_id", "id is empty"),
    ({"id": True}, "bad_id", "id is true or false"),
    ({"thinking": "half \ud800"}, "bad_thinking", "thinking holds a lone surrogate"),
]
USELESS = [
    ({"thinking": " \n"}, "no_thinking"),
    ({"thinking": None}, "no_thinking"),
    ({"answer": None}, "no_answer"),
    ({"answer": ""}, "no_answer"),
    ({"thinking": "a\n</think>\nb"}, "tags_inside"),
    ({"answer": "<think> 4"}, "tags_inside"),
    ({"id": "first"}, "duplicate"),
]


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("change", "reason"), [*USELESS, *((change, reason) for change, reason, _ in BROKEN)]
)
def test_a_row_that_is_not_a_trace_is_left_out_and_counted(tmp_path: Path, change, reason) -> None:
    first, last = ROW | {"id": "first"}, ROW | {"id": "last"}
    found = read_traces(write(tmp_path / "t.jsonl", first, first | change, last))
    assert [trace.id for trace in found.traces] == ["first", "last"]
    assert found.left_out.counts == {reason: 1}
    assert f"t.jsonl that are left out: 1 {reason}" in found.left_out.notice("t.jsonl")


@pytest.mark.parametrize(("change", "reason", "says"), BROKEN)
def test_of_rows_that_are_all_broken_the_first_is_named_with_its_field(
    tmp_path: Path, change, reason, says
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_traces(write(tmp_path / "t.jsonl", ROW | change, ROW | {"messages": 5}))
    assert str(caught.value).startswith(f"t.jsonl, line 1: {says}")


def test_traces_with_one_id_are_kept_apart_and_the_same_again_is_left_out(tmp_path: Path) -> None:
    said = [ROW | {"id": "q", "thinking": thinking} for thinking in ("One.", "Two.", "One.", "Three.")]
    found = read_traces(write(tmp_path / "t.jsonl", *said, ROW | {"id": "q#2"}))
    assert [(one.id, one.thinking) for one in found.traces] == [
        ("q", "One."), ("q#2", "Two."), ("q#3", "Three."), ("q#2#2", "It is 4."),
    ]  # fmt: skip
    assert found.left_out.counts == {"duplicate": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", "a"),
        (17, "17"),
        (0, "0"),
        (17.0, "17"),
        (-3.0, "-3"),
        (None, "t.jsonl-00001"),
        (float("nan"), "t.jsonl-00001"),
    ],
)
def test_an_id_is_a_text_a_whole_number_or_made_from_where_the_row_stands(
    tmp_path: Path, given, expected
) -> None:
    (trace,) = read_traces(write(tmp_path / "t.jsonl", ROW | {"id": given})).traces
    assert trace.id == expected


def test_a_row_without_id_and_source_gets_them_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n" + json.dumps(ROW))
    (trace,) = read_traces(tmp_path / "t.jsonl").traces
    assert (trace.id, trace.source, trace.question) == ("t.jsonl-00002", "t.jsonl", "2+2?")


def test_a_trace_spends_its_thinking_with_a_line_break_the_closing_and_its_answer() -> None:
    # The scripted engine's tokens are bytes: "2+2=4." and "\n", "</think>\n\n", "The final answer is 4."
    assert Lengths.of(ScriptedEngine()).budgeted(TRACE) == 7 + 10 + 22


def test_pieces_are_counted_one_by_one_and_not_across_seams() -> None:
    def merging(text: str, *, special: bool = False) -> list[int]:
        return [0] * len(re.findall(r"\n</|\n\nT|[\s\S]", text))

    lengths = replace(Lengths.of(ScriptedEngine()), seams=Seams.of(merging))
    assert lengths.budgeted(TRACE) == 39
    assert len(merging("".join(TRACE.pieces))) == 39 - 2 - 2


def test_a_trace_fits_if_prompt_opening_trace_and_end_of_turn_do() -> None:
    trace = replace(TRACE, messages=(Message("user", "Q"),))
    # <|im_start|> u s e r \n Q <|im_end|> \n <|im_start|> a s s i s t a n t \n, then "<think>\n".
    needed = (1 + 5 + 1 + 1 + 1 + 1 + 10) + 8 + 39 + 1
    for room_tokens, does in ((needed, True), (needed - 1, False)):
        lengths = Lengths.of(ScriptedEngine(train_context_tokens=room_tokens))
        assert lengths.fits(trace, 39) is does


def test_percentiles_are_of_all_lengths() -> None:
    assert length_summary(range(1, 12)) == {"mean": 6, "p10": 2, "median": 6, "p90": 10, "max": 11}
    assert length_summary([]) is None


def test_a_folder_holds_one_run_and_says_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    RunFolder(folder, "set of traces").claim_record(FORMAT, {"seed": 1, "teacher": "a"})
    RunFolder(folder, "set of traces").claim_record(FORMAT, {"seed": 1, "teacher": "a"})
    with pytest.raises(ConfigError, match=r"seed: 1 there, 2 now\)"):
        RunFolder(folder, "set of traces").claim_record(FORMAT, {"seed": 2, "teacher": "a"})
    assert write_traces(folder / TRACES, [TRACE]) == 1
    finish_traces(folder, {"seed": 1, "teacher": "a"}, 1, {"way": "read"})
    RunFolder(folder, "set of traces").claim_record(FORMAT, {"seed": 1, "teacher": "a"})
    assert json.loads((folder / RECORD).read_text())["traces"]["rows"] == 1


def test_a_folder_with_nothing_but_an_earlier_lock_is_claimed(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    RunFolder(tmp_path, "set of traces").claim_record(FORMAT, {"seed": 1})
    assert json.loads((tmp_path / RECORD).read_text())["run"] == {"seed": 1}


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds something else"):
        RunFolder(tmp_path, "set of traces").claim_record(FORMAT, {})
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_what_was_seen_is_known_again_through_every_growth_of_the_table() -> None:
    drawn = random.Random(0)
    few = [drawn.randbytes(8) for _ in range(3000)] + [bytes(8)]
    seen, expected = Seen(), set()
    for _ in range(20_000):
        one = drawn.choice(few)
        assert seen.add(one) is (one not in expected)
        expected.add(one)
