"""Tasks by name: where their data is, what is checked first, how they are sampled."""

from __future__ import annotations

import hashlib
import json
import sys
import types

import pytest

from edgereason.errors import ConfigError
from edgereason.evals.tasks.base import Output, Preset
from edgereason.evals.tasks.catalog import TASKS, load_task


def write(path, *records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def questions(count: int) -> list[dict[str, str]]:
    return [{"id": f"q{n}", "question": f"{n} + 1?", "answer": str(n + 1)} for n in range(count)]


def error_of(action) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    return str(caught.value)


def test_the_known_tasks_are_the_issues():
    assert list(TASKS) == [
        "gsm8k", "math500", "aime24", "aime25", "amc23", "svamp", "gpqa-diamond", "mmlu",
        "arc-challenge", "arc-easy", "humaneval", "mbpp",
    ]  # fmt: skip
    assert {name for name, known in TASKS.items() if known.runs_code} == {"humaneval", "mbpp"}


def test_presets_are_the_papers():
    repeats = {name: known.preset.repeats for name, known in TASKS.items() if known.preset.repeats != 1}
    assert repeats == {"aime24": 10, "aime25": 10, "amc23": 10, "gpqa-diamond": 4}
    assert {(known.preset.temperature, known.preset.top_p) for known in TASKS.values()} == {(0.6, 0.95)}


def test_a_local_file_gives_a_task_with_its_name_and_hash(tmp_path):
    path = tmp_path / "mine.jsonl"
    write(path, *questions(3))
    task = load_task("aime24", data=path)
    assert [(item.id, item.question, item.reference) for item in task.items] == [
        ("q0", "0 + 1?", "1"),
        ("q1", "1 + 1?", "2"),
        ("q2", "2 + 1?", "3"),
    ]
    assert (task.name, task.preset, task.runs_code) == ("aime24", Preset(repeats=10), False)
    assert (task.data_name, task.data_revision) == ("mine.jsonl", None)
    assert task.data_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_limit_takes_the_first_rows_and_checks_the_others_all_the_same(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, *questions(5))
    assert [item.id for item in load_task("gsm8k", data=path, limit=2).items] == ["q0", "q1"]
    assert len(load_task("gsm8k", data=path, limit=9).items) == 5
    write(path, *questions(5), {"id": "q5", "question": "?"})
    message = error_of(lambda: load_task("gsm8k", data=path, limit=2))
    assert message == "a.jsonl, line 6: answer is missing; fields here: id, question"


def test_a_limit_below_one_is_an_error():
    assert "expected at least 1" in error_of(lambda: load_task("gsm8k", limit=0))


def test_an_id_that_comes_twice_names_both_lines(tmp_path):
    write(tmp_path / "a.jsonl", *questions(2), questions(1)[0])
    message = error_of(lambda: load_task("gsm8k", data=tmp_path / "a.jsonl"))
    assert message == "a.jsonl, line 3: id is 'q0', as in a.jsonl, line 1; expected every id once"


def test_rows_without_ids_are_numbered(tmp_path):
    write(tmp_path / "a.jsonl", *({"question": "1 + 1?", "answer": "#### 2"} for _ in range(2)))
    items = load_task("gsm8k", data=tmp_path / "a.jsonl").items
    assert [item.id for item in items] == ["gsm8k-0001", "gsm8k-0002"]


def test_parquet_gives_the_items_that_jsonl_gives(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [{"question": "Q?", "choices": ["u", "v"], "answer": 1, "subject": "s"}] * 2
    write(tmp_path / "a.jsonl", *records)
    parquet.write_table(arrow.Table.from_pylist(records), tmp_path / "a.parquet")
    of_lines, of_table = (load_task("mmlu", data=tmp_path / f"a.{end}") for end in ("jsonl", "parquet"))
    assert of_lines.items == of_table.items
    assert of_table.items[1].id == "mmlu-0002"


def test_an_unknown_task_gets_the_nearest_name_and_the_list():
    message = error_of(lambda: load_task("GSM-8K"))
    assert message.startswith("there is no task 'GSM-8K': did you mean 'gsm8k'? known: gsm8k, math500,")
    assert message.endswith("humaneval, mbpp, gym:NAME")
    assert "nearest" not in error_of(lambda: load_task("qqqq"))


# One row a task, as its hub data set has it.
HUB_ROWS = {
    "gsm8k": {"question": "Q?", "answer": "…\n#### 18"},
    "math500": {"problem": "Q?", "solution": "…", "answer": "18", "subject": "Algebra", "unique_id": "t/1"},
    "aime24": {"id": 60, "problem": "Q?", "solution": "…", "answer": "018", "url": "…", "year": "2024"},
    "aime25": {"problem": "Q?", "answer": "18", "id": "0"},
    "amc23": {"id": 0, "answer": 18.0, "url": "…", "question": "Q?"},
    "svamp": {"ID": "chal-1", "Body": "B.", "Question": "Q?", "Equation": "…", "Answer": "18.0", "Type": "…"},
    "gpqa-diamond": {
        "Record ID": "rec1", "Question": "Q?", "Correct Answer": "18", "Incorrect Answer 1": "1",
        "Incorrect Answer 2": "2", "Incorrect Answer 3": "3",
    },
    "mmlu": {"question": "Q?", "subject": "s", "choices": ["1", "2", "18", "3"], "answer": 2},
    "arc-challenge": {
        "id": "M_1", "question": "Q?",
        "choices": {"text": ["1", "18"], "label": ["A", "B"]}, "answerKey": "B",
    },
    "arc-easy": {
        "id": "M_2", "question": "Q?",
        "choices": {"text": ["1", "18"], "label": ["1", "2"]}, "answerKey": "2",
    },
}  # fmt: skip
HUB_NAMES = {
    "gsm8k": ("openai/gsm8k", "main", "test"),
    "math500": ("HuggingFaceH4/MATH-500", None, "test"),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train"),
    "aime25": ("math-ai/aime25", None, "test"),
    "amc23": ("math-ai/amc23", None, "test"),
    "svamp": ("ChilleD/SVAMP", None, "train+test"),
    "gpqa-diamond": ("Idavidrein/gpqa", "gpqa_diamond", "train"),
    "mmlu": ("cais/mmlu", "all", "test"),
    "arc-challenge": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "arc-easy": ("allenai/ai2_arc", "ARC-Easy", "test"),
}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_without_a_file_the_hub_is_asked_and_its_schema_understood(name, monkeypatch):
    # Every one of these questions is answered by 18, as a number or as an option's text.
    asked = []
    fake = types.ModuleType("datasets")
    fake.load_dataset = lambda path, config, *, split: asked.append((path, config, split)) or [HUB_ROWS[name]]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    task = load_task(name)
    assert asked == [HUB_NAMES[name]]
    assert task.data_name == " ".join(part for part in HUB_NAMES[name] if part)
    (item,) = task.items
    assert [item.score(Output(text="", answer=answer)) for answer in ("18", "2")] == [1, 0]


# ── tasks whose answers are programs ─────────────────────────────────────────────────────────────


def mbpp(number: int, **more) -> dict[str, object]:
    return {"code": "def f(): return 1", "test_list": ["assert f() == 1"], "test_setup_code": "", **more} | (
        {"task_id": number, "text": "Write f."} if "split" not in more else {"question": "Write f."}
    )


def test_mbpp_counts_its_test_split_only(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    write(path, *(mbpp(number) for number in (10, 11, 510, 511)))
    official = load_task("mbpp", data=path)
    assert len(official.items) == 2
    assert official.runs_code
    splits = {"mbpp-1": "prompt", "mbpp-11": "test", "mbpp-12": "test", "mbpp-600": "train"}
    write(path, *(mbpp(0, id=id_, split=split) for id_, split in splits.items()))
    assert [item.id for item in load_task("mbpp", data=path).items] == ["mbpp-11", "mbpp-12"]


def test_an_mbpp_file_without_test_rows_is_an_error(tmp_path):
    write(tmp_path / "mbpp.jsonl", mbpp(3))
    message = error_of(lambda: load_task("mbpp", data=tmp_path / "mbpp.jsonl"))
    assert message == "mbpp.jsonl holds no row of the split 'test' of mbpp"


def test_humaneval_is_read_by_either_id(tmp_path):
    path = tmp_path / "humaneval.jsonl"
    program = {"prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n",
               "test": "def check(candidate):\n    assert candidate() == 1\n"}  # fmt: skip
    write(path, {"task_id": "HumanEval/0"} | program, {"id": "HumanEval/1"} | program)
    task = load_task("humaneval", data=path)
    assert [item.id for item in task.items] == ["HumanEval/0", "HumanEval/1"]
    assert task.runs_code
