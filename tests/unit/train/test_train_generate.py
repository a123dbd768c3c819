"""Traces made by a teacher: what is asked, kept, chosen, written and gone on with."""

from __future__ import annotations

import json
import random
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mortal import Killed, MortalEngine
from told import Told

from edgereason.core.answers import extract, grade
from edgereason.core.types import Message, Stop
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, RequestError
from edgereason.evals.tasks.catalog import load_task
from edgereason.reasoning.model import Model, load
from edgereason.records.context import RunContext
from edgereason.records.folder import RECORD
from edgereason.records.journal import SAMPLES
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.generate import GenerateConfig, generate, sample_seed
from edgereason.train.data.questions import Question, Questions, read_questions
from edgereason.train.data.solutions import (
    SampleRow,
    choose,
    nearest_the_median,
    solution_trace,
    without_bare_end,
    without_boxes,
)
from edgereason.train.data.traces import TRACES, Drop, Lengths, TraceRow, read_traces

NOTHING = Evaluations.of([])


def question(number: int = 0, text: str = "", reference: str = "18") -> Question:
    text = text or f"How many eggs does hen {number} lay in 9 days?"
    return Question(
        id=f"q{number}",
        text=text,
        reference=reference,
        source="hens.jsonl",
        place=f"hens.jsonl, line {number}",
    )


def source(*questions: Question) -> Questions:
    return Questions(entry={"name": "hens.jsonl", "sha256": "ab"}, questions=questions, num_without_answer=0)


HENS = source(*(question(number) for number in range(8)))
REPLIES = [
    "She lays 2 a day.\nSo it is 9 × 2 = \\boxed{18}.",
    "Two a day, for 9 days. That makes $9 \\cdot 2 = 18$ eggs. Check: 18 / 9 = 2. It is \\boxed{18}.",
    "She lays 3 a day, so \\boxed{27}.",
    "Two each day, nine days, 18.\n\n\\boxed{18}",
    "\\boxed{18}",
]
CONFIG = GenerateConfig(samples=5, keep=2, max_tokens=200, parallel=4)


def make(folder: Path, config: GenerateConfig = CONFIG, *sources: Questions, engine=None, **more):
    with Model(engine or ScriptedEngine(REPLIES)) as model:
        return generate(folder, config, sources or (HENS,), more.pop("against", NOTHING), model=model, **more)


# ── a solution becomes a trace ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"So it is \boxed{18}.", "So it is 18."),
        (r"So it is $\boxed{18}$ eggs.", "So it is 18 eggs."),
        (r"So it is \(\boxed{18}\).", "So it is 18."),
        ("So\n\\[\n\\boxed{18}.\n\\]\nDone.", "So\n18.\nDone."),
        (r"So $x = \boxed{18}$.", "So $x = 18$."),
        (r"So $\boxed{\frac{1}{2}}$.", r"So $\frac{1}{2}$."),
        (r"\boxed{\{1, 2\}} or \fbox{3}", r"\{1, 2\} or 3"),
        (r"It costs \boxed{\$18}, \boxed {50\%} off", "It costs $18, 50% off"),
        (r"cut off at \boxed{1", r"cut off at \boxed{1"),
        ("no box, $5 and $6", "no box, $5 and $6"),
    ],
)
def test_a_box_is_taken_off_and_the_sentence_stays(text: str, plain: str) -> None:
    assert without_boxes(text) == plain


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("It is 9 × 2 = 18.\n\n18", "It is 9 × 2 = 18."),
        ("It is 9 × 2 = 18.\n\n**Final Answer:**\n18.", "It is 9 × 2 = 18."),
        ("It is 9 × 2 = 18.\n### Answer\nThe final answer is 18.", "It is 9 × 2 = 18."),
        ("It is 9 × 2 = 18.\nSo she lays 18.", "It is 9 × 2 = 18.\nSo she lays 18."),
        ("It is 9 × 2 = 18.\nTherefore, the final answer is 18.", None),
        ("The answer: 18", ""),
        ("18", ""),
    ],
)
def test_last_lines_that_only_give_the_answer_are_left_out(text: str, rest: str | None) -> None:
    assert without_bare_end(text, "18") == (text if rest is None else rest)


def test_a_right_solution_is_the_thinking_and_its_answer_is_said_as_a_forced_end_says_it() -> None:
    assert solution_trace(question(), 3, REPLIES[0]) == TraceRow(
        id="q0/3",
        messages=(Message("user", question().text),),
        thinking="She lays 2 a day.\nSo it is 9 × 2 = 18.",
        answer="The final answer is 18.",
        source="hens.jsonl",
        reference="18",
    )


def test_a_teacher_that_thinks_between_tags_keeps_what_stands_there() -> None:
    trace = solution_trace(question(), 0, "<think>\nTwo a day.\n</think>\n\nThat is \\boxed{18} eggs.")
    assert isinstance(trace, TraceRow)
    assert (trace.thinking, trace.answer) == ("Two a day.", "The final answer is 18.")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("She lays 3 a day, so \\boxed{27}.", Drop.WRONG),
        (" ", Drop.NO_ANSWER),
        ("\\boxed{18}", Drop.NO_THINKING),
        ("**Answer:** \\boxed{18}", Drop.NO_THINKING),
        ("<think>18</think><think>So \\boxed{18}.</think>", Drop.NO_THINKING),
        ("We run it.\n```python\nprint(9 * 2)\n```\n```output\n18\n```\nSo \\boxed{18}.", Drop.CODE),
        ("I <think> that she lays 2 a day: \\boxed{18}.", Drop.TAGS),
    ],
)
def test_a_solution_of_no_use_is_left_out_for_a_reason(text: str, why: Drop) -> None:
    assert solution_trace(question(), 0, text) is why


@pytest.mark.parametrize("reference", ["18", "1/2", r"\frac{3}{4}", r"x^2+1", "(1, 2)", r"\sqrt{2}", "-7.5"])
def test_the_answer_that_is_written_reads_as_the_right_one(reference: str) -> None:
    asked = question(text="What is the value of the expression?", reference=reference)
    trace = solution_trace(asked, 0, f"We add up what is there. So it is $\\boxed{{{reference}}}$.")
    assert isinstance(trace, TraceRow)
    assert trace.answer.startswith("The final answer is ")
    assert grade(extract(trace.answer, question=asked.text), reference)


# ── which of them are kept ───────────────────────────────────────────────────────────────────────


def of_length(number: int, num_tokens: int) -> TraceRow:
    trace = solution_trace(question(), number, REPLIES[0])
    assert isinstance(trace, TraceRow)
    return replace(trace, num_tokens=num_tokens)


def test_those_nearest_to_the_median_are_kept_in_their_order_and_ties_go_to_the_first() -> None:
    traces = [of_length(n, tokens) for n, tokens in enumerate([90, 10, 50, 40, 60])]  # median 50
    assert [trace.id for trace in nearest_the_median(traces, 2)] == ["q0/2", "q0/3"]
    assert nearest_the_median(traces, 9) == traces
    assert nearest_the_median(traces[:2], 1) == traces[:1]  # both are 40 from the median, 50
    assert nearest_the_median([], 2) == []


@pytest.mark.parametrize("seed", range(5))
def test_nobody_left_out_is_nearer_to_the_median(seed: int) -> None:
    chance = random.Random(seed)
    traces = [of_length(n, chance.randrange(20, 60)) for n in range(chance.randrange(3, 9))]
    kept = nearest_the_median(traces, 2)
    median = statistics.median(trace.num_tokens for trace in traces if trace.num_tokens)
    far = max(abs((trace.num_tokens or 0) - median) for trace in kept)
    assert all(abs((trace.num_tokens or 0) - median) >= far for trace in traces if trace not in kept)


def test_what_becomes_of_every_sample_is_counted() -> None:
    said = [
        *REPLIES,
        REPLIES[0].upper().replace("BOXED", "boxed"),
        "Two a day, so \\boxed{18}" + " eggs" * 50,
    ]
    samples = [
        SampleRow(id="q0", number=n, question_sha256="", seed=n, text=text, num_tokens=9, stop=Stop.NATURAL)
        for n, text in enumerate(said)
    ]
    samples.append(replace(samples[0], number=7, stop=Stop.LENGTH))
    counts: Counter[str] = Counter()
    kept = choose(question(), samples, Lengths.of(ScriptedEngine()), max_tokens=200, keep=1, counts=counts)
    # Right, in bytes: thinking of 42 and 89 with its line break and 34 more, and 28. The median is 76.
    assert [trace.id for trace in kept] == ["q0/0"]
    assert counts == {
        "samples": 8, "wrong": 1, "no_thinking": 1, "cut": 1, "right": 5, "duplicate": 1, "too_long": 1,
        "not_chosen": 2, "traces": 1, "questions_with_traces": 1,
    }  # fmt: skip


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────


def counted(found: dict[str, Any]) -> dict[str, int]:
    """The counts of a yield that are not 0."""
    return {name: count for name, count in found.items() if isinstance(count, int) and count}


def lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the second and the peak memory of the call that wrote it last."""
    return {name: value for name, value in record.items() if name not in ("date", "peak_rss_bytes")}


def test_a_run_writes_samples_traces_and_a_record_of_its_yield(tmp_path: Path) -> None:
    record = make(tmp_path / "run", context=RunContext(command=("edgereason", "train", "traces")))
    assert record == json.loads((tmp_path / "run" / RECORD).read_text())
    # Five samples with seeds in a row: each reply once a question; three are right, two are kept.
    found = record["yield"]["hens.jsonl"]
    assert counted(found) == {
        "questions": 8, "asked": 8, "samples": 40, "right": 24, "wrong": 8, "no_thinking": 8,
        "not_chosen": 8, "traces": 16, "questions_with_traces": 8,
    }  # fmt: skip
    assert (found["share_right"], found["share_of_questions_with_traces"]) == (0.6, 1.0)
    traces = read_traces(tmp_path / "run" / TRACES).traces
    lengths = Lengths.of(ScriptedEngine())
    assert found["tokens"]["mean"] == statistics.mean(map(lengths.budgeted, traces))
    assert Counter(trace.id.split("/")[0] for trace in traces) == {f"q{n}": 2 for n in range(8)}
    for trace in traces:
        assert trace.num_tokens == lengths.budgeted(trace)
        assert trace.messages == (Message("user", trace.question),)
        assert trace.answer == "The final answer is 18."
        assert "boxed" not in trace.thinking
    samples = [json.loads(line) for line in (tmp_path / "run" / SAMPLES).read_text().splitlines()]
    assert {(row["id"], row["number"]): row["seed"] for row in samples} == {
        (f"q{n}", k): sample_seed(0, f"q{n}", k) for n in range(8) for k in range(5)
    }
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_random_points_has_the_traces_of_one_that_was_not(tmp_path: Path, seed: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    make(whole)
    chance, kills = random.Random(seed), 0
    while True:
        try:
            make(killed, engine=MortalEngine(REPLIES, steps=chance.randrange(150, 400)))
            break
        except Killed:
            kills += 1
            path = killed / SAMPLES
            if path.exists() and chance.random() < 0.7:  # … and in the middle of writing a question's samples
                with path.open("rb+") as file:
                    file.truncate(path.stat().st_size - chance.randrange(1, 300))
    assert kills > 0
    assert (killed / TRACES).read_bytes() == (whole / TRACES).read_bytes()
    assert sorted((killed / SAMPLES).read_text().split("\n")) == sorted(
        (whole / SAMPLES).read_text().split("\n")
    )


def test_a_finished_run_draws_nothing_again_and_more_questions_or_samples_go_on(tmp_path: Path) -> None:
    first = make(tmp_path, replace(CONFIG, samples=2), source(*HENS.questions[:4]))
    engine = MortalEngine(REPLIES, steps=0)
    again = make(tmp_path, replace(CONFIG, samples=2), source(*HENS.questions[:4]), engine=engine)
    assert lasting(again) == lasting(first)
    assert engine.decoded == []
    before = (tmp_path / SAMPLES).read_text()
    make(tmp_path)
    assert (tmp_path / SAMPLES).read_text().startswith(before)
    make(tmp_path.parent / "at_once")
    assert (tmp_path / TRACES).read_bytes() == (tmp_path.parent / "at_once" / TRACES).read_bytes()


def test_an_interruption_keeps_what_is_written(tmp_path: Path) -> None:
    told, engine = Told(), ScriptedEngine(REPLIES)
    stopped = make(tmp_path, engine=engine, context=told.stopping_after(3))
    assert stopped is None
    assert engine.live_sequences == 0
    assert 10 <= len((tmp_path / SAMPLES).read_text().splitlines()) < 40
    assert not (tmp_path / TRACES).exists()
    assert make(tmp_path)["yield_of_all"]["samples"] == 40
    assert [row[:3] for row in told[:3]] == [("samples", 0, 40), ("samples", 5, 40), ("samples", 10, 40)]


def test_other_sampling_and_another_question_of_the_same_id_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ConfigError, match=r"temperature: 0\.7 there, 0\.2 now"):
        make(tmp_path, replace(CONFIG, temperature=0.2))
    with pytest.raises(ConfigError, match="another question with the id 'q3'"):
        make(tmp_path, CONFIG, source(question(3, reference="27")))


def test_a_teacher_may_have_its_results_forced(tmp_path: Path) -> None:
    engine = ScriptedEngine(["She lays 2 a day.\nSo it is 9 × 2 = 19.\nIt is \\boxed{18}."])
    config = replace(CONFIG, samples=1, calculator=True)
    make(tmp_path, config, engine=engine)
    (thought,) = {trace.thinking for trace in read_traces(tmp_path / TRACES).traces}
    assert thought == "She lays 2 a day.\nSo it is 9 × 2 = 18.\nIt is 18."
    with pytest.raises(ConfigError, match="calculator: True there, None now"):
        make(tmp_path, replace(config, calculator=False))


def test_questions_of_an_evaluation_and_those_that_come_twice_are_not_asked(tmp_path: Path) -> None:
    asked = source(
        question(0, "How many eggs?"),
        question(1, "how many  EGGS"),
        question(2, "What is 9 × 2?"),
        question(3, "word " * 300),
    )
    record = make(
        tmp_path, CONFIG, asked,
        against=Evaluations.of(["what is 9 2"]),
        engine=ScriptedEngine(REPLIES, train_context_tokens=1200),
    )  # fmt: skip
    found = record["yield"]["hens.jsonl"]
    assert counted(found) == {
        "questions": 4, "contaminated": 1, "duplicate_questions": 1, "question_too_long": 1, "asked": 1,
        "samples": 5, "right": 3, "wrong": 1, "no_thinking": 1, "not_chosen": 1, "traces": 2,
        "questions_with_traces": 1,
    }  # fmt: skip
    assert found["share_contaminated"] == 0.25
    assert {trace.id.split("/")[0] for trace in read_traces(tmp_path / TRACES).traces} == {"q0"}


def test_two_questions_of_one_id_are_refused_by_their_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^hens.jsonl, line 1: id is 'q1', as at hens.jsonl, line 1"):
        make(tmp_path / "run", CONFIG, source(question(1), question(1, "Another?")))
    assert not (tmp_path / "run").exists()


def test_the_teacher_is_told_how_by_the_system_message_and_asked_the_plain_question() -> None:
    system, user = CONFIG.request("2+2?", 0, 1).messages
    assert (system.role, system.content, user) == ("system", CONFIG.instruction, Message("user", "2+2?"))
    assert r"\boxed{}" in system.content


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"samples": 0}, ConfigError, "samples must be between 1 and 64, got 0"),
        ({"parallel": 65}, ConfigError, "parallel must be between 1 and 64, got 65"),
        ({"keep": 0}, ConfigError, "keep must be at least 1, got 0"),
        ({"temperature": 9.0}, RequestError, "temperature must be between 0 and 5"),
        ({"max_tokens": 0}, RequestError, "max_tokens must be at least 1"),
        ({"seed": -1}, ConfigError, "seed must be"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_once(settings, error, says) -> None:
    with pytest.raises(error, match=says):
        GenerateConfig(**settings)


# ── questions ────────────────────────────────────────────────────────────────────────────────────


def test_questions_of_gsm8k_and_math_are_read_with_their_answers(tmp_path: Path) -> None:
    rows = [
        {"question": " Eggs? ", "answer": "9 × 200 = 1800\n#### 1,800"},
        {"id": "math/4", "problem": "Find $x$.", "solution": r"So $x = \boxed{\frac{1}{2}}$."},
        {"id": 7, "question": "Eggs?", "answer": 18.0, "solution": "See #### 18"},
        {"question": "Show it.", "answer": ""},
        {"problem": "Show it.", "solution": None},
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_questions(str(path))
    assert [(one.id, one.text, one.reference) for one in found.questions] == [
        ("train.jsonl-00001", "Eggs?", "1800"),
        ("math/4", "Find $x$.", r"\frac{1}{2}"),
        ("7", "Eggs?", "18"),
    ]
    assert found.num_without_answer == 2
    assert len(read_questions(str(path), limit=1).questions) == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "", "answer": "1"}, "train.jsonl, line 1: question is empty"),
        ({"question": "Eggs?"}, "train.jsonl, line 1: answer is missing, and so is solution"),
        ({"question": "Eggs?", "answer": ["1"]}, "train.jsonl, line 1: answer is a list"),
        ({"id": 1.5, "question": "Eggs?", "answer": "1"}, "train.jsonl, line 1: id is a number"),
    ],
)
def test_a_broken_question_names_file_line_and_field(tmp_path: Path, row, says) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError) as caught:
        read_questions(str(tmp_path / "train.jsonl"))
    assert str(caught.value).startswith(says)


def test_reasoning_gym_makes_questions() -> None:
    gym = pytest.importorskip("reasoning_gym")
    found = read_questions("reasoning-gym:chain_sum:5", seed=3)
    expected = gym.create_dataset("chain_sum", size=5, seed=4_000_000)
    assert [(one.text, one.reference) for one in found.questions] == [
        (entry["question"], entry["answer"]) for entry in expected
    ]
    assert found.entry["name"] == found.questions[0].source == "reasoning-gym chain_sum"
    assert len({one.id for one in found.questions}) == 5
    assert len(read_questions("reasoning-gym:chain_sum", limit=4).questions) == 4
    for spec, says in (("chain_sums", "chain_sums"), ("chain_sum:many", "'many' is not a count")):
        with pytest.raises(ConfigError, match=says):
            read_questions(f"reasoning-gym:{spec}")


def test_what_reasoning_gym_trains_on_is_not_what_it_evaluates() -> None:
    # Of neighbouring seeds all but one of 200 questions are the same; what chance repeats are short sums.
    pytest.importorskip("reasoning_gym")
    trained = {
        one.text
        for seed in (0, 1)
        for one in read_questions("reasoning-gym:chain_sum:200", seed=seed).questions
    }
    asked = {
        item.question.strip()
        for seed in (0, 1)
        for item in load_task("gym:chain_sum", limit=200, seed=seed).items
    }
    assert len(asked) < 210
    assert len(trained) > 380
    assert len(trained & asked) < 10


@pytest.mark.model
def test_a_real_teacher_makes_samples_that_are_gone_on_with(tmp_path: Path, smollm2: Path) -> None:
    asked = source(question(0, "What is 2 + 2?", "4"), question(1, "What is 1 + 2?", "3"))
    config = GenerateConfig(samples=2, max_tokens=60, parallel=2)
    with load(smollm2, threads=1) as model:
        record = generate(tmp_path, config, [asked], NOTHING, model=model)
        assert record is not None
        written = (tmp_path / SAMPLES).read_text()
        again = generate(tmp_path, config, [asked], NOTHING, model=model)
        lengths = Lengths.of(model.engine)
        traces = read_traces(tmp_path / TRACES).traces if record["traces"]["rows"] else ()
        assert all(trace.num_tokens == lengths.budgeted(trace) <= 60 for trace in traces)
    assert again is not None
    assert (lasting(again), (tmp_path / SAMPLES).read_text()) == (lasting(record), written)
    samples = [json.loads(line) for line in written.splitlines()]
    assert sorted((row["id"], row["number"]) for row in samples) == [
        ("q0", 0),
        ("q0", 1),
        ("q1", 0),
        ("q1", 1),
    ]
    assert all(0 < row["num_tokens"] <= 60 and row["text"].strip() for row in samples)
    assert record["yield_of_all"]["samples"] == 4
