"""Traces that others made, read from files in their own formats."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

from edgereason.core.types import Message
from edgereason.data.rows import Chunk, Row, RowStream
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.readers import READERS, find_rows, read_into
from edgereason.train.data.traces import TRACES, Drop, TraceRow, read_traces

NOTHING = Evaluations.of([])


def talk(answer: str, question: str = "2+2?") -> dict[str, object]:
    return {
        "difficulty": 7,
        "source": "ai2-adapt-dev/openmath-2-math",
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
    }


def read(format_name: str, record: dict[str, object]) -> TraceRow | Drop:
    return READERS[format_name](Row("open/data", 3, record))


def rows(*records: dict[str, object]) -> RowStream:
    chunk = Chunk("x.jsonl", tuple(enumerate(records, 1)), 1.0)
    return RowStream(name="x.jsonl", sha256="ab", revision=None, chunks=lambda: iter([chunk]))


def read_out(folder: Path, stream: RowStream, format_name: str, *, context_tokens: int = 100_000, **how):
    """The traces of a data set, and what the record says became of its rows."""
    how = {"against": NOTHING} | how
    with Model(ScriptedEngine(train_context_tokens=context_tokens)) as model:
        record = read_into(folder / "out", stream, format_name, model=model, **how)
    assert record is not None
    shown = ("rows", "traces", "tokens", "share_contaminated")
    (found,) = record["yield"].values()
    dropped = {name: value for name, value in found.items() if name not in shown}
    traces = read_traces(folder / "out" / TRACES).traces
    assert (found["rows"], found["traces"]) == (sum(dropped.values()) + len(traces), len(traces))
    return traces, dropped


def test_openthoughts_says_thinking_and_answer_in_one_turn() -> None:
    assert read(
        "openthoughts3", talk("<think>\nOkay, 2+2.\n\nIt is 4.\n</think>\n\nIt is **4**.\n")
    ) == TraceRow(
        id="open/data-00003",
        messages=(Message("user", "2+2?"),),
        thinking="Okay, 2+2.\n\nIt is 4.",
        answer="It is **4**.",
        source="open/data",
    )


def test_only_the_last_turn_of_a_conversation_is_the_trace() -> None:
    turns = [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "<think>Greet.</think>Hello"},
        {"from": "human", "value": "2+2?"},
        {"from": "gpt", "value": "Sum.</think>4"},
    ]
    trace = read("openthoughts3", {"conversations": turns})
    assert isinstance(trace, TraceRow)
    assert [message.role for message in trace.messages] == ["system", "user", "assistant", "user"]
    assert (trace.thinking, trace.answer) == ("Sum.", "4")


SAID = "<think>\nAdd.\n</think>\n\nIt is 4."
ASKED = {"role": "user", "content": "2+2?"}


@pytest.mark.parametrize(
    ("format_name", "record"),
    [
        # open-r1/Mixture-of-Thoughts
        ("mixture-of-thoughts", {"messages": [{"content": "2+2?", "role": "user"},
                                              {"content": SAID, "role": "assistant"}],
                                 "num_tokens": 9, "source": "open-r1/OpenR1-Math-220k"}),
        ("openthoughts3", talk(SAID)),
        ("sharegpt", talk(SAID)),
        ("sharegpt", {"conversations": [ASKED, {"role": "assistant", "content": SAID}]}),
        # TRL: messages, with the thinking in a field of its own or not; prompt and completion; text
        ("trl", {"messages": [ASKED, {"role": "assistant", "content": SAID}]}),
        ("trl", {"messages": [ASKED, {"role": "assistant", "content": "It is 4.", "thinking": "Add."}]}),
        ("trl", {"messages": [ASKED, {"role": "assistant", "content": "It is 4.",
                                      "reasoning_content": "Add.\n", "thinking": None}]}),
        ("trl", {"prompt": "2+2?", "completion": SAID}),
        ("trl", {"prompt": [ASKED], "completion": [{"role": "assistant", "content": SAID}]}),
        ("trl", {"text": f"2+2?\n{SAID}"}),
    ],
)  # fmt: skip
def test_conversations_of_every_schema_come_to_the_same_trace(format_name, record) -> None:
    assert read(format_name, record) == TraceRow(
        id="open/data-00003",
        messages=(Message("user", "2+2?"),),
        thinking="Add.",
        answer="It is 4.",
        source="open/data",
    )


def test_a_system_text_beside_a_conversation_is_its_first_turn() -> None:
    trace = read("sharegpt", talk(SAID) | {"system": "Be brief.", "tools": ""})
    assert isinstance(trace, TraceRow)
    assert trace.messages == (Message("system", "Be brief."), Message("user", "2+2?"))


def test_a_row_of_deepscaler_is_a_worked_solution() -> None:
    row = {
        "problem": "What is $2+2$?",
        "answer": "4",
        "solution": r"Two and two make four, so it is $\boxed{4}$.",
    }
    trace = read("deepscaler", row)
    assert isinstance(trace, TraceRow)
    assert (trace.question, trace.reference) == ("What is $2+2$?", "4")
    assert (trace.thinking, trace.answer) == (
        "Two and two make four, so it is 4.",
        "The final answer is 4.",
    )
    assert read("deepscaler", row | {"solution": r"So it is $\boxed{5}$."}) is Drop.WRONG


def test_a_worked_solution_is_the_thinking_without_its_result_and_calculator() -> None:
    expected = TraceRow(
        id="open/data-00003/worked",
        messages=(Message("user", "How many?"),),
        thinking="She sold 48/2 = 24 in May.\nThat makes 48+1152 = 1200.",
        answer="The final answer is 1,200.",
        source="open/data",
        reference="1200",
    )
    solution = "She sold 48/2 = <<48/2=24>>24 in May.\nThat makes 48+1152 = <<48+1152=1200>>1200.\n#### 1,200"
    assert read("worked", {"question": "How many?", "answer": solution}) == expected
    solved = {"question": "How many?", "answer": "1200", "solution": solution.replace("1,200", "1200")}
    trace = read("worked", solved)
    assert isinstance(trace, TraceRow)
    assert (trace.thinking, trace.answer) == (expected.thinking, "The final answer is 1200.")
    boxed = r"Half of 8 is $\frac{8}{2}$, so it is $\boxed{4}$."
    trace = read("worked", {"problem": "Half of 8?", "solution": boxed})
    assert isinstance(trace, TraceRow)
    assert (trace.thinking, trace.reference) == (r"Half of 8 is $\frac{8}{2}$, so it is 4.", "4")


@pytest.mark.parametrize(
    ("format_name", "record", "why"),
    [
        ("openthoughts3", talk("<think>\nOkay, 2+2 is"), Drop.NO_CLOSING),
        ("openthoughts3", talk("It is 4."), Drop.NO_CLOSING),
        ("openthoughts3", talk("<think>\nOkay.\n</think>\n\n"), Drop.NO_ANSWER),
        ("openthoughts3", talk("<think>\n\n</think>\n\n4"), Drop.NO_THINKING),
        ("openthoughts3", talk("<think>Is <think> a tag?</think>\n\n4"), Drop.TAGS),
        ("openthoughts3", talk("<think>Yes</think>\n\n4</think>"), Drop.TAGS),
        ("s1k", {"question": "?", "thinking_trajectories": [], "attempt": "4"}, Drop.NO_THINKING),
        ("s1k", {"question": "?", "thinking_trajectories": ["4"], "attempt": None}, Drop.NO_ANSWER),
        ("worked", {"question": "?", "answer": ""}, Drop.NO_ANSWER),
        ("worked", {"question": "?", "answer": "4", "solution": "It is 5.\n#### 5"}, Drop.WRONG),
        ("worked", {"question": "?", "answer": "4", "solution": "#### 4"}, Drop.NO_THINKING),
        ("plain", {"thinking": "So.", "answer": ""}, Drop.NO_ANSWER),
        ("plain", {"thinking": "So</think>", "answer": "4"}, Drop.TAGS),
    ],
)
def test_a_trace_of_no_use_is_left_out_for_a_reason(format_name, record, why) -> None:
    assert read(format_name, record) is why


def test_s1k_and_its_successor_have_fields_of_their_own() -> None:
    first = {"question": "2+2?", "thinking_trajectories": ["Add."], "attempt": "4.", "solution": "4"}
    second = {
        "question": "2+2?",
        "gemini_thinking_trajectory": "No.",
        "gemini_attempt": "5",
        "deepseek_thinking_trajectory": "Add.\n",
        "deepseek_attempt": "4.",
        "solution": r"Adding gives $\boxed{4}$, as was to be shown by whoever reads this solution.",
    }
    assert read("s1k", first) == read("s1k", second)
    trace = read("s1k", first)
    assert isinstance(trace, TraceRow)
    assert (trace.thinking, trace.answer, trace.reference) == ("Add.", "4.", "4")


def test_a_proof_is_no_reference() -> None:
    row = {
        "question": "Show it.",
        "thinking_trajectories": ["Hm."],
        "attempt": "So it is.",
        "solution": "x " * 40,
    }
    trace = read("s1k", row)
    assert isinstance(trace, TraceRow)
    assert trace.reference is None


@pytest.mark.parametrize(
    ("format_name", "record", "says"),
    [
        ("openthoughts3", {"question": "?"}, "open/data, row 3: conversations is missing"),
        ("trl", {"messages": []}, "row 3: messages is not a conversation"),
        ("trl", {"messages": [{"role": "user", "content": "2+2?"}]}, "messages do not end with a question"),
        ("trl", {"prompt": None, "completion": "<think>Add.</think>4"}, "row 3: prompt is null"),
        ("trl", {"prompt": "2+2?", "completion": [{"role": "user", "content": "4"}]}, "completion do not"),
        ("trl", {"text": "The sky is blue."}, "text has no question before <think>"),
        ("trl", {"text": "<think>Add.</think>4"}, "text has no question before <think>"),
        ("trl", {"text": "<|im_start|>user\n2+2?<|im_end|>\n<think>Add.</think>4"}, "text is rendered by"),
        ("trl", {"text": 7}, "row 3: text is a number"),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": "Weather?"},
                    {"from": "observation", "value": "{}"},
                ]
            },
            "[1].from is 'observation'",
        ),
        ("sharegpt", {"conversations": "2+2?"}, "conversations is not a conversation"),
        (
            "openthoughts3",
            {"conversations": [{"from": "gpt", "value": "x"}]},
            "conversations do not end",
        ),
        (
            "openthoughts3",
            {"conversations": [{"from": "bard", "value": ""}]},
            "[0].from is 'bard'",
        ),
        ("s1k", {"question": "?"}, "row 3: deepseek_thinking_trajectory is missing"),
        ("s1k", {"question": "?", "thinking_trajectories": ["x"]}, "row 3: attempt is missing"),
        ("s1k", {"thinking_trajectories": ["x"], "attempt": "4"}, "row 3: question is missing"),
        ("plain", {"thinking": 3, "answer": "4"}, "row 3: thinking is not a text"),
        ("plain", {"thinking": "x", "answer": "4"}, "row 3: messages is missing"),
    ],
)
def test_a_row_of_another_shape_is_named(format_name, record, says) -> None:
    with pytest.raises(ConfigError) as caught:
        read(format_name, record)
    assert says in str(caught.value)


def test_what_is_left_out_is_counted_and_what_is_kept_is_whole(tmp_path: Path) -> None:
    eval_question = "If a train leaves at nine and another one at ten when do the two of them meet"
    long = "word " * 100
    traces, dropped = read_out(
        tmp_path,
        rows(
            talk("<think>Two and two.</think>4"),
            talk("<think>TWO and two!</think>four"),
            talk("<think>never ends"),
            talk("<think>On time.</think>At noon.", f"Well. {eval_question}?"),
            talk(f"<think>{long}</think>4"),
            talk("<think>Another way.</think>4"),
        ),
        "openthoughts3",
        against=Evaluations.of([eval_question]),
        max_tokens=13 + 1 + 10 + 1,
    )
    assert dropped == {"duplicate": 1, "no_closing": 1, "contaminated": 1, "too_long": 1}
    assert [(trace.thinking, trace.num_tokens) for trace in traces] == [
        ("Two and two.", 12 + 1 + 10 + 1),
        ("Another way.", 12 + 1 + 10 + 1),
    ]


def plain(**change: object) -> dict[str, object]:
    return {
        "id": "q",
        "messages": [{"role": "user", "content": "2+2?"}],
        "thinking": "So.",
        "answer": "4",
    } | change


def test_one_bad_row_does_not_end_the_reading_and_is_counted_by_reason(tmp_path: Path) -> None:
    told: list[str] = []
    traces, dropped = read_out(
        tmp_path,
        rows(
            plain(),
            plain(answer=""),
            plain(messages=[{"role": "system", "content": " "}, {"role": "user", "content": "?"}]),
            plain(id=1.5, thinking="Hm."),
            plain(id=None, thinking="Well."),
            plain(thinking="Other.", messages="2+2?"),
            plain(thinking="Again."),
        ),
        "plain",
        context=RunContext(notice=told.append),
    )
    assert dropped == {"no_answer": 1, "bad_messages": 2, "bad_id": 1}
    assert [trace.id for trace in traces] == ["q", "x.jsonl-00005", "q#2"]
    assert told == [
        "rows of x.jsonl that are left out: 1 bad_id, 2 bad_messages, 1 no_answer; "
        "x.jsonl, line 3: messages[0].content is empty; expected a text"
    ]


def test_a_source_of_another_format_is_refused_by_its_first_row(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^x\.jsonl, line 1: messages do not end with a question"):
        read_out(tmp_path, rows(plain(), plain()), "openthoughts3")
    assert not (tmp_path / "out" / TRACES).exists()


def test_what_was_read_can_be_trained_on(tmp_path: Path) -> None:
    with Model(ScriptedEngine()) as model:
        read_into(
            tmp_path / "out",
            rows(plain(), plain(thinking="Other."), plain(thinking="")),
            "plain",
            against=NOTHING,
            model=model,
        )
    found = read_traces(tmp_path / "out" / TRACES)
    assert ([one.id for one in found.traces], found.left_out.counts) == (["q", "q#2"], {})


def test_the_context_is_a_limit_where_nobody_names_one(tmp_path: Path) -> None:
    records = [talk(f"<think>{'x' * n}</think>4") for n in (20, 100)]
    traces, dropped = read_out(tmp_path, rows(*records), "openthoughts3", context_tokens=100)
    assert ([len(trace.thinking) for trace in traces], dropped) == ([20], {"too_long": 1})


def test_a_data_set_becomes_a_folder_and_the_record_says_of_what(tmp_path: Path) -> None:
    with Model(ScriptedEngine()) as model:
        record = read_into(
            tmp_path / "out",
            rows(talk("<think>Add.</think>4"), talk("<think>Add")),
            "openthoughts3",
            against=NOTHING,
            model=model,
            context=RunContext(command=("edgereason", "train", "traces")),
        )
    assert record is not None
    (trace,) = read_traces(tmp_path / "out" / TRACES).traces
    assert trace.thinking == "Add."
    assert record["yield"]["x.jsonl"] == {
        "rows": 2,
        "traces": 1,
        "no_closing": 1,
        "share_contaminated": 0.0,
        "tokens": {"mean": 16, "p10": 16, "median": 16, "p90": 16, "max": 16},
    }
    assert (record["from"]["sha256"], record["traces"]["rows"]) == ("ab", 1)
    assert record["command"] == ["edgereason", "train", "traces"]
    assert str(tmp_path) not in json.dumps(record)


def test_a_reading_that_is_stopped_leaves_no_traces(tmp_path: Path) -> None:
    with Model(ScriptedEngine()) as model:
        stopped = read_into(
            tmp_path / "out",
            rows(talk("<think>Add.</think>4")),
            "openthoughts3",
            against=NOTHING,
            model=model,
            context=RunContext(should_stop=lambda: True),
        )
    assert stopped is None
    assert not (tmp_path / "out" / TRACES).exists()


def test_a_source_is_a_file_a_folder_or_a_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset_builder(path, name=None):
        asked.append((path, name))
        return types.SimpleNamespace(
            config=types.SimpleNamespace(
                data_files={"train": [f"hf://datasets/{path}@{'0f' * 20}/a.parquet"]}
            ),
            info=types.SimpleNamespace(splits=None),
            as_streaming_dataset=lambda split: ({"question": f"{split} {n}"} for n in range(5000)),
        )

    fake = types.ModuleType("datasets")
    fake.load_dataset_builder = load_dataset_builder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "s1k.jsonl").write_text('{"question": "b"}\n{"question": "c"}\n')
    (tmp_path / "data" / "a.jsonl").write_text('{"question": "a"}\n')

    def questions(source: str, limit: int | None = None) -> list[str]:
        chunks = find_rows(source, limit).chunks()
        return [row.text("question") for chunk in chunks for row in chunk.rows() if isinstance(row, Row)]

    assert questions("data/s1k.jsonl", limit=1) == ["b"]
    assert questions("data/s1k.jsonl") == ["b", "c"]
    assert questions("data") == ["a", "b", "c"]
    assert asked == []
    assert len(questions("simplescaling/s1K-1.1")) == 5000
    assert questions("open-r1/Mixture-of-Thoughts:all", limit=1500)[-1] == "train 1499"
    assert find_rows("simplescaling/s1K-1.1").revision == "0f" * 20
    assert asked == [("simplescaling/s1K-1.1", None), ("open-r1/Mixture-of-Thoughts", "all"), asked[0]]
    for missing in ("data/s2k.jsonl", "nowhere"):
        with pytest.raises(ConfigError, match="is not a file"):
            find_rows(missing)
