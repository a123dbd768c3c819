"""Traces cut at hard budgets: what comes out is what a run with that budget gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgereason.core.answers import canonical, grade
from edgereason.core.types import Mode, Stop
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, RequestError
from edgereason.evals.curves.budgets import budget_curve
from edgereason.evals.evaluate import EvalConfig, evaluate
from edgereason.evals.samples import Sample
from edgereason.evals.tasks.base import Item, Output
from edgereason.reasoning.model import Model

REPLIES = {
    "closes by itself": "word " * 30 + "\n</think>\n\nThe final answer is 7.",
    "ends its turn while thinking": "word " * 30,
    "answers at length": "word " * 10 + "\n</think>\n\n" + "so " * 40 + "The final answer is 7.",
    "is cut": "word " * 100 + "\n</think>\n\nThe final answer is 7.",
    "is short": "7\n</think>\n\nThe final answer is 7.",
}
LIMITS = (80, 100, 120, 160, 200, 256, 300)
CONFIG = EvalConfig(task="t", mode=Mode.THINK, budget=300, repeats=1, calculator=True)


def item(number: int) -> Item:
    def score(output: Output) -> float:
        return float(output.answer is not None and grade(canonical(output.answer), "7"))

    return Item(id=f"q{number}", question="How many?", reference="7", score=score)


ITEMS = {f"q{n}": item(n) for n in range(2)}


def run(reply: str, folder: Path, budget: int = 300) -> list[Sample]:
    config = replace(CONFIG, budget=budget)
    return evaluate(config, list(ITEMS.values()), Model(ScriptedEngine([reply])), folder)[0]


COMPUTES = "So 12 * 12 = 145, and 3 * 40 = 12\n" * 2 + REPLIES["is cut"]


@pytest.mark.parametrize("reply", [*REPLIES.values(), COMPUTES], ids=[*REPLIES, "computes"])
def test_a_trace_that_is_cut_comes_to_what_a_run_with_that_budget_comes_to(
    reply: str, tmp_path: Path
) -> None:
    recorded = run(reply, tmp_path)
    curve = budget_curve(CONFIG, ITEMS, recorded, Model(ScriptedEngine([reply])), LIMITS)
    for number, limit in enumerate(LIMITS):
        folder = tmp_path / str(limit)
        folder.mkdir()
        live = run(reply, folder, budget=limit)
        rows = [row for row in curve["rows"] if row["limit_tokens"] == limit]
        assert [(r["answer"], r["num_tokens"], r["score"]) for r in rows] == [
            (s.traces[0].answer, s.traces[0].num_tokens, s.score) for s in live
        ]
        assert curve["mean_tokens"][number] == live[0].num_tokens
        assert curve["accuracy"][number] == live[0].score


def test_only_what_follows_the_cut_is_generated(tmp_path: Path) -> None:
    reply = REPLIES["is cut"]
    recorded = run(reply, tmp_path)
    engine = ScriptedEngine([reply])
    curve = budget_curve(CONFIG, ITEMS, recorded[:1], Model(engine), (100, 200))
    # "\n", "</think>\n\n" and "The final answer is " are 31 bytes, and 8 more are held back for the answer:
    # 61 bytes are kept of 100 and 161 of 200. They are encoded once.
    kept = [61, 161]
    prompt, opening, first, second, *steps = engine.decoded
    assert (first, second) == (kept[0], kept[1] - kept[0])
    assert steps[0] == sum(
        row["num_tokens"] - said - 2 for row, said in zip(curve["rows"], kept, strict=True)
    )
    assert steps[1:] == [2, 2]  # "7." and the end of the turn
    assert (prompt, opening) == (28, len("<think>\nLet me work this out step by step.\n"))


def test_a_limit_that_the_trace_stays_below_leaves_it_as_it_was(tmp_path: Path) -> None:
    recorded = run(REPLIES["is short"], tmp_path)
    engine = ScriptedEngine(["never said"])
    curve = budget_curve(CONFIG, ITEMS, recorded, Model(engine), (100, 300))
    assert curve["accuracy"] == [1.0, 1.0] == [curve["untruncated"]["accuracy"]] * 2
    assert curve["share_truncated"] == [0.0, 0.0]
    assert engine.decoded == []


def test_everything_is_given_back(tmp_path: Path) -> None:
    recorded = run(REPLIES["is cut"], tmp_path)
    engine = ScriptedEngine([REPLIES["is cut"]])
    budget_curve(CONFIG, ITEMS, recorded, Model(engine), LIMITS[:4])
    assert engine.live_sequences == 0
    assert all(sampler.closed for sampler in engine.samplers)


def test_runs_that_did_not_think_and_budgets_beyond_the_runs_own_are_refused(tmp_path: Path) -> None:
    recorded = run(REPLIES["is cut"], tmp_path)
    assert recorded[0].stop is Stop.BUDGET
    model = Model(ScriptedEngine(["7"]))
    with pytest.raises(ConfigError, match="at most the run's own, 300"):
        budget_curve(CONFIG, ITEMS, recorded, model, (100, 512))
    with pytest.raises(RequestError, match="minimum is 32"):
        budget_curve(CONFIG, ITEMS, recorded, model, (16,))
    with pytest.raises(ConfigError, match="not in the data"):
        budget_curve(CONFIG, {"q0": ITEMS["q0"]}, recorded, model, (100,))
    (tmp_path / "chat").mkdir()
    chat = replace(CONFIG, mode=Mode.CHAT, budget=None)
    rows, _ = evaluate(chat, list(ITEMS.values()), model, tmp_path / "chat")
    with pytest.raises(ConfigError, match="did not think"):
        budget_curve(chat, ITEMS, rows, model, (100,))
