"""From questions to a verifier: traces graded, their states kept, whole questions on one side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from told import Told

from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, RequestError
from edgereason.heads.file import read_heads
from edgereason.reasoning.model import Model
from edgereason.records.journal import SAMPLES
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.generate import sample_seed
from edgereason.train.data.questions import read_questions
from edgereason.train.heads.trace_states import TraceConfig, verification_ids
from edgereason.train.heads.verifier import VerifierConfig, train_verifier

RIGHT = "2+2 is 4.\n</think>\n\nThe final answer is 4."
WRONG = "2+2 is 5, I think.\n</think>\n\nThe final answer is 5."
ENDLESS = "hm " * 60 + "\n</think>\n\nThe final answer is 4."
"""Cut, and made to answer: right."""
REPLIES = (RIGHT, WRONG, ENDLESS)
CONFIG = VerifierConfig(traces=TraceConfig(samples=4, budget=120, parallel=8), held_out_share=0.2)


def write(path: Path, numbers: range, answer: str = "4") -> Path:
    """Questions of one length, so that the scripted engine's states tell nothing but the reply."""
    rows = [{"id": f"q{n}", "question": f"What is 2+2, the {n:03d}th?", "answer": answer} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return write(tmp_path / "asked.jsonl", range(30))


def train(
    folder: Path, *paths: Path, tests=(), against=(), engine=None, config: VerifierConfig = CONFIG, **more
):
    with Model(engine or ScriptedEngine(REPLIES)) as model:
        learned, judged = ([read_questions(str(path)) for path in some] for some in (paths, tests))
        return train_verifier(folder, config, learned, Evaluations.read(against), judged, model=model, **more)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / SAMPLES).read_text().splitlines()]


def test_right_traces_are_told_from_wrong_ones_on_questions_not_learned_from(
    asked: Path, tmp_path: Path
) -> None:
    test = write(tmp_path / "test.jsonl", range(100, 106))
    record = train(tmp_path / "run", asked, tests=(test,))
    assert record == json.loads((tmp_path / "run" / "record.json").read_text())
    splits = record["splits"]
    assert [splits[name]["questions"] for name in ("train", "held_out", "test.jsonl")] == [24, 6, 6]
    assert sum(one["samples"] for one in splits.values()) == len(rows_of(tmp_path / "run")) == 144
    for name in ("validation", "held_out", "test.jsonl"):
        assert record["reliability"][name]["auroc"] == 1.0
        assert record["reliability"][name]["auroc_within_questions"] == 1.0
        assert record["reliability"][name]["ece"] < 0.2
    assert record["fit"]["validation_loss"][f"{record['fit']['l2']:g}"] == min(
        record["fit"]["validation_loss"].values()
    )
    assert record["stops"]["budget"] == sum(row["stop"] == "budget" for row in rows_of(tmp_path / "run")) > 0
    assert str(tmp_path) not in json.dumps(record)


def test_rows_say_what_was_answered_and_whether_it_is_right(asked: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", asked)
    rows = rows_of(tmp_path / "run")
    assert {(row["answer"], row["right"]) for row in rows} == {("4", True), ("5", False)}
    for row in rows:
        assert row["seed"] == sample_seed(0, row["id"], row["number"])
        assert row["right"] == (REPLIES[row["seed"] % 3] is not WRONG)
        assert row["source"] == "asked.jsonl"
    assert {row["num_tokens"] for row in rows if row["seed"] % 3 == 0} == {len(RIGHT)}
    # a question's traces are on one line of seeds, which another question does not share
    assert len({row["seed"] for row in rows}) == len(rows) == 120


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_at_run_time_the_same_trace_gets_the_score_that_training_gave_it(
    asked: Path, tmp_path: Path, reads_prompt: bool
) -> None:
    train(tmp_path / "run", asked, config=replace(CONFIG, reads_prompt=reads_prompt))
    verifier = read_heads(tmp_path / "run" / "heads.safetensors").verifier
    assert verifier is not None
    assert (verifier.features.behind_prompt, bool(verifier.layers)) == (reads_prompt, not reads_prompt)
    # kept of each trace: the mean of the scripted engine's one layer, then the state behind the prompt
    kept = np.fromfile(tmp_path / "run" / "states.f32", "<f4").reshape(-1, 2, 16)
    scores = verifier.score(kept[:, int(verifier.features.behind_prompt)])
    places = {(row["id"], row["number"]): n for n, row in enumerate(rows_of(tmp_path / "run"))}
    question = "What is 2+2, the 007th?"
    with Model(ScriptedEngine(REPLIES), verifier=verifier) as model:
        response = model.ask(question, mode="think", budget=120, streams=4, seed=sample_seed(0, "q7", 0))
        assert verifier.prompt_ids == (verification_ids(model.engine) if reads_prompt else ())
    told = {c.trace.index: c.score for c in response.candidates if c.score is not None}
    assert len(told) >= 2
    for index, score in told.items():
        assert score == pytest.approx(float(scores[places["q7", index]]), abs=1e-5)


def test_what_is_read_is_as_asked_whichever_has_the_lower_loss_and_traces_serve_both(
    asked: Path, tmp_path: Path
) -> None:
    means = train(tmp_path / "run", asked)
    engine = ScriptedEngine(REPLIES)
    prompt = train(tmp_path / "run", asked, config=replace(CONFIG, reads_prompt=True), engine=engine)
    assert engine.decoded == []
    # Both measure all that could be read, and at most one of them got what has the lowest loss.
    assert means["candidates"] == prompt["candidates"]
    assert len({one["loss"] for one in means["candidates"]}) == len(means["candidates"]) == 2
    assert means["fit"]["features"] == {"mean_of_layers": [-2], "behind_prompt": False}
    assert prompt["fit"]["features"] == {"mean_of_layers": [], "behind_prompt": True}
    assert (means["config"]["reads_prompt"], prompt["config"]["reads_prompt"]) == (False, True)
    assert (means["verification_ids"], prompt["verification_ids"]) == ([], [*verification_ids(engine)])


def test_the_verification_prompt_stands_behind_a_trace_as_the_template_has_it() -> None:
    engine = ScriptedEngine()
    text = "".join(
        {256: "<|im_end|>", 257: "<|im_start|>"}.get(i) or chr(i) for i in verification_ids(engine)
    )
    assert text == (
        "<|im_end|>\n<|im_start|>user\nIs this solution correct? Answer yes or no.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_stopped_run_goes_on_behind_what_is_written_and_more_samples_join_it(
    asked: Path, tmp_path: Path
) -> None:
    folder, told = tmp_path / "run", Told()
    assert train(folder, asked, context=told.stopping_after(3)) is None
    assert told == [("samples", done, 120, "") for done in (0, 4, 8, 12)]
    before = (folder / SAMPLES).read_text()
    assert before.count("\n") == 12
    record = train(folder, asked)
    assert (folder / SAMPLES).read_text().startswith(before)
    assert len(rows_of(folder)) == 120
    assert record["heads"]["adapter_sha256"] is None
    more = train(folder, asked, config=replace(CONFIG, traces=replace(CONFIG.traces, samples=5)))
    assert sum(more["splits"][name]["samples"] for name in ("train", "held_out")) == 150
    keys = [(row["id"], row["number"]) for row in rows_of(folder)]
    assert len(set(keys)) == len(keys) == 150
    # fewer are enough again, and nothing is asked
    engine = ScriptedEngine(REPLIES)
    assert train(folder, asked, engine=engine)["splits"] == record["splits"]
    assert engine.decoded == []


def test_questions_of_evaluations_and_tests_are_not_learned_from(asked: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test.jsonl", range(40, 43))
    test.write_text(test.read_text() + asked.read_text().splitlines()[3].replace("q3", "t3") + "\n")
    against = write(tmp_path / "eval.jsonl", range(5, 7))
    twice = tmp_path / "twice.jsonl"
    twice.write_text(asked.read_text().splitlines()[9].replace('"q9"', '"again"') + "\n")
    record = train(tmp_path / "run", asked, twice, tests=(test,), against=(against,))
    counts = {"questions": 31, "without_answer": 0, "contaminated": 3, "duplicate_questions": 1}
    assert record["counts"] == counts | {"question_too_long": 0}
    assert {row["id"] for row in rows_of(tmp_path / "run")} >= {"t3", "q40"}
    assert not {row["id"] for row in rows_of(tmp_path / "run")} & {"q3", "q5", "q6", "again"}
    assert record["against"][0]["name"] == "eval.jsonl"


def test_too_few_questions_are_refused_before_any_is_asked(tmp_path: Path) -> None:
    engine = ScriptedEngine(REPLIES)
    with pytest.raises(ConfigError, match="needs 20 questions that no evaluation asks, got 19"):
        train(tmp_path / "run", write(tmp_path / "few.jsonl", range(19)), engine=engine)
    assert engine.decoded == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("reply", "says"), [(RIGHT, "ask harder"), (WRONG, "ask easier")])
def test_traces_that_are_all_right_or_all_wrong_teach_nothing(
    asked: Path, tmp_path: Path, reply: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"of 96 traces to learn from are right.*{says}"):
        train(tmp_path / "run", asked, engine=ScriptedEngine([reply]))


def test_a_held_out_part_that_can_judge_nothing_is_refused(asked: Path, tmp_path: Path) -> None:
    # Of 30 questions, a thirtieth is one: here one whose traces are all right or all wrong.
    config = replace(CONFIG, held_out_share=1 / 30, traces=replace(CONFIG.traces, samples=1))
    with pytest.raises(ConfigError, match=r"[01] of the 1 traces of 1 questions that are held out are right"):
        train(tmp_path / "run", asked, config=config)
    with pytest.raises(ConfigError, match="0 of the 0 traces of 0 questions that are held out"):
        train(tmp_path / "run", asked, config=replace(config, held_out_share=0.01))


def test_questions_with_options_are_refused_since_they_would_be_asked_without(tmp_path: Path) -> None:
    for field, options in (
        ("choices", ["a", "b"]),
        ("choices", {"text": ["a"], "label": ["A"]}),
        ("options", ["A) 1"]),
        ("Incorrect Answer 1", "b"),
    ):
        row = {"question": "Which?", "answer": "B", field: options}
        path = tmp_path / "arc.jsonl"
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(ConfigError, match=f"arc.jsonl, line 1: {field} are options"):
            read_questions(str(path))
        # whoever only asks what an evaluation asks may read it
        assert Evaluations.read([path]).know("which")


def test_the_file_names_the_adapters_buckets(asked: Path, tmp_path: Path) -> None:
    record = train(tmp_path / "run", asked)
    assert record["heads"]["buckets"] == []
    assert read_heads(tmp_path / "run" / "heads.safetensors").buckets == ()


def test_questions_that_do_not_fit_are_counted_and_if_too_few_do_it_is_said(
    asked: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"id": "long", "question": "so " * 200, "answer": "4"}) + "\n")
    engine = ScriptedEngine(REPLIES, train_context_tokens=600)
    record = train(tmp_path / "run", asked, long, engine=engine)
    assert record["counts"]["question_too_long"] == 1
    rows = [{"id": f"l{n}", "question": f"so {n} " * 200, "answer": "4"} for n in range(30)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="only 0 questions fit"):
        train(tmp_path / "other", long, engine=ScriptedEngine(REPLIES, train_context_tokens=600))


def test_another_setting_another_question_of_an_id_and_ids_twice_are_refused(
    asked: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(folder, asked)
    with pytest.raises(ConfigError, match="budget: 120 there, 130 now"):
        train(folder, asked, config=replace(CONFIG, traces=replace(CONFIG.traces, budget=130)))
    with pytest.raises(ConfigError, match=r"asked\.jsonl, line 1: the folder has traces of another question"):
        train(folder, write(asked, range(30), answer="5"))
    twice = write(tmp_path / "twice.jsonl", range(29, 31), answer="7")
    twice.write_text(twice.read_text().replace("What is", "How much is"))
    with pytest.raises(ConfigError, match=r"twice\.jsonl, line 1: id is 'q29', as at asked\.jsonl, line 30"):
        train(tmp_path / "new", write(asked, range(30)), twice)


@pytest.mark.parametrize(
    "bad", [{"samples": 0}, {"parallel": 65}, {"seed": -1}, {"budget": 8}, {"top_p": 2.0}]
)
def test_a_setting_out_of_range_is_refused(bad: dict) -> None:
    with pytest.raises((ConfigError, RequestError)):
        TraceConfig(**bad)
