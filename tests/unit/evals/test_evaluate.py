"""Evaluations on the scripted engine: rows, seeds, kills and resumption."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from mortal import Killed, MortalEngine
from told import Told

from edgereason.core.answers import canonical, grade
from edgereason.core.types import Mode, Route, Stop
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, ContextOverflow, RequestError
from edgereason.evals.evaluate import EvalConfig, evaluate, question_seed
from edgereason.evals.samples import Sample, read_samples
from edgereason.evals.tasks.base import Item, Output
from edgereason.reasoning.model import Model
from edgereason.records.context import RunContext
from edgereason.records.journal import SAMPLES

REPLIES = [f"I count {n}.\n</think>\n\nThe final answer is {n}." + " So it is." * (n % 4) for n in range(7)]


def item(number: int) -> Item:
    def score(output: Output) -> float:
        return float(output.answer is not None and grade(canonical(output.answer), "3"))

    return Item(id=f"q{number}", question=f"How many is {number}?", reference="3", score=score)


ITEMS = [item(number) for number in range(12)]
CONFIG = EvalConfig(
    task="count", mode=Mode.THINK, budget=100, streams=3, repeats=2, parallel=4, stop_early=False
)


def model(engine: ScriptedEngine | None = None) -> Model:
    return Model(engine or ScriptedEngine(REPLIES))


def timeless(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, ttft_s=0.0, total_s=0.0) for sample in samples]


def test_every_question_is_asked_as_often_as_wanted_and_scored(tmp_path: Path) -> None:
    rows, _ = evaluate(CONFIG, ITEMS, model(), tmp_path)
    assert [row.key for row in rows] == [(f"q{n}", r) for n in range(12) for r in range(2)]
    for row in rows:
        # Stream i recites reply (seed + i) % 7, which answers its own number.
        answers = [str((row.seed + i) % 7) for i in range(3)]
        assert [trace.answer for trace in row.traces] == answers
        assert [trace.score for trace in row.traces] == [float(answer == "3") for answer in answers]
        assert row.score == float(row.answer == "3")
        assert row.answer == row.traces[row.winner or 0].answer
        assert row.route is Route.THINK
        assert row.all_streams_tokens == sum(trace.num_tokens for trace in row.traces)
        assert bytes(row.traces[0].token_ids).decode().endswith(row.traces[0].text)


def test_rows_that_are_read_back_are_the_rows_that_were_returned(tmp_path: Path) -> None:
    rows, _ = evaluate(CONFIG, ITEMS, model(), tmp_path)
    assert sorted(read_samples(tmp_path), key=lambda row: (int(row.id[1:]), row.repeat)) == rows


@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_at_random_points_has_the_rows_of_one_that_was_not(tmp_path: Path, seed: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, _ = evaluate(CONFIG, ITEMS, model(), tmp_path / "whole")
    chance = random.Random(seed)
    kills = 0
    while True:
        try:
            resumed, _ = evaluate(
                CONFIG,
                ITEMS,
                model(MortalEngine(REPLIES, steps=chance.randrange(50, 600))),
                tmp_path / "killed",
            )
            break
        except Killed:
            kills += 1
            path = tmp_path / "killed" / SAMPLES
            if chance.random() < 0.5 and path.stat().st_size > 40:  # … and in the middle of writing a row
                with path.open("rb+") as file:
                    file.truncate(path.stat().st_size - chance.randrange(1, 40))
    assert kills > 0
    assert timeless(resumed) == timeless(whole)
    lines = (tmp_path / "killed" / SAMPLES).read_text().splitlines()
    assert len(lines) == len(whole)


def test_a_finished_run_generates_nothing_again(tmp_path: Path) -> None:
    first, _ = evaluate(CONFIG, ITEMS, model(), tmp_path)
    engine = MortalEngine(REPLIES, steps=0)
    again, speed = evaluate(CONFIG, ITEMS, model(engine), tmp_path)
    assert again == first
    assert engine.decoded == []
    assert speed["timed_samples"] == 0


def test_rows_do_not_depend_on_how_many_streams_run_at_a_time(tmp_path: Path) -> None:
    runs = []
    for parallel in (1, 3, 64):
        folder = tmp_path / str(parallel)
        folder.mkdir()
        runs.append(timeless(evaluate(replace(CONFIG, parallel=parallel), ITEMS, model(), folder)[0]))
    assert runs[0] == runs[1] == runs[2]


def test_questions_are_batched_together(tmp_path: Path) -> None:
    engine = ScriptedEngine(["x" * 40])
    config = replace(CONFIG, streams=1, parallel=8, repeats=1)
    evaluate(config, ITEMS, model(engine), tmp_path)
    assert max(engine.decoded[-30:]) >= 2
    assert 8 in engine.decoded


def test_an_interruption_keeps_what_is_written_and_gives_everything_back(tmp_path: Path) -> None:
    engine = ScriptedEngine(REPLIES)
    evaluate(CONFIG, ITEMS, model(engine), tmp_path, Told().stopping_after(5))
    assert 5 <= len(read_samples(tmp_path)) < 24
    assert engine.live_sequences == 0
    rows, _ = evaluate(CONFIG, ITEMS, model(), tmp_path)
    assert len(rows) == 24


def test_progress_counts_and_averages_what_is_there(tmp_path: Path) -> None:
    seen = Told()
    rows, _ = evaluate(CONFIG, ITEMS, model(), tmp_path, RunContext(progress=seen))
    assert [(done, total) for _, done, total, _ in seen] == [(done, 24) for done in range(25)]
    assert seen[0][3] == ""
    assert seen[-1][3].startswith(f"{sum(row.score for row in rows) / 24:.1%} right, ")


def test_a_question_that_can_never_fit_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    engine = ScriptedEngine(REPLIES, context_tokens=400)
    long = replace(item(99), question="x" * 500)
    with pytest.raises(ContextOverflow):
        evaluate(CONFIG, [*ITEMS, long], model(engine), tmp_path)
    assert engine.decoded == []


def test_a_stream_that_was_cut_scores_by_what_it_was_made_to_answer(tmp_path: Path) -> None:
    engine = ScriptedEngine(["hm " * 200 + "\n</think>\n\nThe final answer is 3."])
    rows, _ = evaluate(replace(CONFIG, streams=1, repeats=1), ITEMS[:1], model(engine), tmp_path)
    assert rows[0].stop is Stop.BUDGET
    assert rows[0].score == 1.0
    forced = rows[0].traces[0].forced
    assert bytes(rows[0].traces[0].token_ids[i] for i in forced).decode().endswith("The final answer is ")


def test_an_option_quoted_in_its_words_is_recorded_as_its_letter(tmp_path: Path) -> None:
    question = "Which city is the capital of France?\nA. Lyon\nB. Paris\nC. Nice"
    engine = ScriptedEngine(["It is on the Seine.\n</think>\n\nThe final answer is Paris."])
    choice = Item(
        id="c", question=question, reference="B", score=lambda output: float(output.answer == "Paris")
    )
    rows, _ = evaluate(replace(CONFIG, streams=1, repeats=1), [choice], model(engine), tmp_path)
    assert rows[0].traces[0].answer == "B"
    assert rows[0].score == 1.0  # the scorer sees what was said


def test_seeds_differ_by_question_and_repetition_and_leave_room_for_streams() -> None:
    seeds = {question_seed(0, f"q{n}", r) for n in range(500) for r in range(4)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 - 64 for seed in seeds)
    assert question_seed(0, "q1", 0) == question_seed(0, "q1", 0) != question_seed(1, "q1", 0)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"parallel": 65}, "parallel must be at most 64"),
        ({"seed": -1}, "seed must be between"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        replace(CONFIG, **setting)


def test_a_budget_that_is_too_small_is_refused_when_the_request_is_made() -> None:
    with pytest.raises(RequestError, match="minimum is 32"):
        replace(CONFIG, budget=8).request("?", 0)


def test_a_row_that_is_broken_in_the_middle_names_its_line(tmp_path: Path) -> None:
    evaluate(CONFIG, ITEMS, model(), tmp_path)
    path = tmp_path / SAMPLES
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:50], *lines[4:]]) + "\n")
    with pytest.raises(ConfigError, match=r"samples\.jsonl, line 4 is not a Sample"):
        read_samples(tmp_path)
