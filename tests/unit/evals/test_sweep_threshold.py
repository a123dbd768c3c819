"""Threshold curves by hand; the sweep's choice of what to draw."""

from __future__ import annotations

import json
import random
from statistics import fmean

import numpy as np
import pytest
from eval_rows import pool, sample, trace

from edgereason.core.types import Route
from edgereason.errors import ConfigError
from edgereason.evals.curves.sweep import sweep
from edgereason.evals.curves.threshold import NEVER_THINK, p_think_of, threshold_curve
from edgereason.evals.metrics import bootstrap_intervals

P_THINK = {"a": 0.1, "b": 0.4, "c": 0.4, "d": 0.9}
CHAT = [
    sample(id_, score, route=Route.CHAT, tokens=tokens)
    for id_, score, tokens in [("a", 1.0, 20), ("b", 1.0, 20), ("c", 0.0, 40), ("d", 0.0, 80)]
]
THINK = [
    sample(id_, score, tokens=tokens)
    for id_, score, tokens in [("d", 1.0, 400), ("c", 1.0, 200), ("b", 1.0, 100), ("a", 0.0, 100)]
]


def random_runs(num_questions: int, seed: int = 0):
    rng = random.Random(seed)
    ids = [f"q{i}" for i in range(num_questions)]
    chat = [sample(i, float(rng.random() < 0.4), route=Route.CHAT, tokens=rng.randrange(20, 60)) for i in ids]
    think = [sample(i, float(rng.random() < 0.6), tokens=rng.randrange(100, 400)) for i in ids]
    return chat, think, {i: round(rng.random(), 1) for i in ids}


def test_the_curve_of_four_questions_by_hand():
    record = threshold_curve(CHAT, THINK, P_THINK)
    found = [
        tuple(
            point[key] for key in ("threshold", "share_think", "accuracy", "mean_tokens", "random_accuracy")
        )
        for point in record["points"]
    ]
    assert np.array(found) == pytest.approx(
        np.array(
            [
                (0.0, 1.0, 0.75, 200.0, 0.75),
                (0.1, 1.0, 0.75, 200.0, 0.75),
                (0.4, 0.75, 1.0, 180.0, 0.6875),  # a chats: right, and 20 tokens for 100
                (0.9, 0.25, 0.75, 120.0, 0.5625),  # only d thinks
                (NEVER_THINK, 0.0, 0.5, 40.0, 0.5),
            ]
        )
    )
    assert record["points"][2]["random_tokens"] == pytest.approx(0.25 * 40 + 0.75 * 200)
    # Under the curve, from share 1 down: ¼ · 0.875 + ½ · 0.875 + ¼ · 0.625 = 0.8125; under the line 0.625.
    assert record["area"] == pytest.approx(0.1875)
    low, high = record["area_ci95"]
    assert low <= 0.1875 <= high


def test_the_ends_are_pure_think_and_pure_chat_and_the_share_falls_between():
    chat, think, p_think = random_runs(50)
    points = threshold_curve(chat, think, p_think)["points"]
    for point, rows in ((points[0], think), (points[-1], chat)):
        assert point["accuracy"] == pytest.approx(fmean(row.score for row in rows))
        assert point["mean_tokens"] == pytest.approx(fmean(row.num_tokens for row in rows))
        assert point["random_accuracy"] == pytest.approx(point["accuracy"])
    shares = [point["share_think"] for point in points]
    assert shares[0] == pytest.approx(1)
    assert shares[-1] == 0
    assert shares == sorted(shares, reverse=True)


def test_every_point_and_its_interval_are_those_of_the_rows_picked_one_by_one():
    chat, think, p_think = random_runs(40)
    ids = sorted(p_think)
    by_id = [{row.id: row.score for row in rows} for rows in (chat, think)]
    for point in threshold_curve(chat, think, p_think, seed=7)["points"]:
        picked = np.array([by_id[p_think[i] >= point["threshold"]][i] for i in ids])
        assert point["accuracy"] == pytest.approx(picked.mean())
        assert point["ci95"] == pytest.approx(bootstrap_intervals(picked[:, None], seed=7)[0].tolist())


def test_a_switcher_that_says_the_same_of_all_is_no_better_than_chance():
    chat, think, p_think = random_runs(30)
    record = threshold_curve(chat, think, dict.fromkeys(p_think, 0.5))
    assert [point["share_think"] for point in record["points"]] == pytest.approx([1, 1, 0])
    assert record["area"] == pytest.approx(0)
    assert record["area_ci95"] == pytest.approx([0, 0])


def test_a_switcher_without_knowledge_gains_nothing_on_average_and_one_with_it_does():
    chat, think, p_think = random_runs(400, seed=1)
    low, high = threshold_curve(chat, think, p_think)["area_ci95"]
    assert low < 0 < high
    gains = {c.id: (1 + t.score - c.score) / 2 for c, t in zip(chat, think, strict=True)}
    assert threshold_curve(chat, think, gains)["area_ci95"][0] > 0.05


def test_repeats_are_averaged_and_thresholds_can_be_chosen():
    chat = [sample("a", s, repeat=r, route=Route.CHAT) for r, s in enumerate([0.0, 1.0, 1.0])]
    record = threshold_curve([*chat, *CHAT[1:]], THINK, P_THINK, thresholds=[0.5, 0.2])
    assert [point["threshold"] for point in record["points"]] == [0.2, 0.5]
    assert record["points"][0]["accuracy"] == pytest.approx((2 / 3 + 3) / 4)


def test_a_seed_gives_the_same_record():
    runs = random_runs(20)
    assert threshold_curve(*runs, seed=1) == threshold_curve(*runs, seed=1)
    assert threshold_curve(*runs, seed=1) != threshold_curve(*runs, seed=2)


def test_runs_of_other_questions_are_refused_with_a_number_and_an_example():
    for arguments, message in [
        ((CHAT[:2], THINK, P_THINK), "differ in 2 of 4 questions, e.g. the chat run lacks 'c'"),
        ((CHAT, THINK[1:], P_THINK), "differ in 1 of 4 questions, e.g. the think run lacks 'd'"),
        ((CHAT, THINK, {**P_THINK, "e": 0.1}), "differ in 1 of 5 questions, e.g. the chat run lacks 'e'"),
        ((CHAT, THINK, {"a": 0.1, "b": 0.2, "c": 0.3}), "e.g. p_think lacks 'd'"),
        ((THINK, CHAT, P_THINK), "4 rows of the chat run are not on the chat route"),
        ((CHAT, THINK, {**P_THINK, "b": 1.5}), "p_think of question 'b' is 1.5"),
        (([], [], {}), "needs samples"),
    ]:
        with pytest.raises(ConfigError, match=message):
            threshold_curve(*arguments)


def test_p_think_is_collected_where_it_was_asked():
    rows = [
        sample("a", p_think=0.2),
        sample("a", repeat=1, p_think=0.4),
        sample("b"),
        sample("c", p_think=0.0),
    ]
    assert p_think_of(rows) == {"a": pytest.approx(0.3), "c": 0.0}


# ── the sweep ────────────────────────────────────────────────────────────────────────────────────


def test_a_sweep_draws_what_there_is_and_says_what_there_is_not():
    auto = [
        sample(id_, p_think=p, route=Route.THINK if p > 0.3 else Route.CHAT) for id_, p in P_THINK.items()
    ]
    voted = [pool("z", trace(), trace("7", 0.0), trace())]
    budgets = {"any": ["record"]}
    record = sweep([("auto", auto), ("chat", CHAT), ("think", THINK), ("voted", voted)], budgets=budgets)
    assert record["format"] == "edgereason-sweep"
    assert list(record["votes"]) == ["voted"]
    assert record["budgets"] == budgets
    # Two runs think throughout, and of the questions of one there is no chat.
    assert record["threshold"] is None
    assert any("the chat run lacks 'z'" in note for note in record["notes"])
    assert any(note.startswith("no vote curve of chat: question 'a' has 1") for note in record["notes"])

    record = sweep([("auto", auto), ("chat", CHAT), ("think", THINK)])
    assert record["threshold"] == {
        "runs": {"chat": ["chat"], "think": ["think"], "p_think": ["auto"]},
        **threshold_curve(CHAT, THINK, P_THINK),
    }
    assert (record["votes"], record["budgets"]) == ({}, None)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_sweep_notes_why_there_is_no_threshold_curve():
    partly = [sample("a", p_think=0.3, route=Route.CHAT), sample("b")]
    for runs, message in [
        ([("chat", CHAT)], "no run on the think route"),
        ([("chat", CHAT), ("think", THINK)], "p_think is known of 0 of 4 questions"),
        ([("auto", partly), ("chat", CHAT), ("think", THINK)], "known of 1 of 4 questions"),
        ([("chat", CHAT), ("think", THINK), ("too", THINK[3:])], "think and too both took the think route"),
        ([("auto", [sample(i, p_think=0.1, route=r) for i, r in zip("abcd", [*Route, *Route], strict=True)]),
          ("chat", CHAT), ("think", THINK[1:])], "the think run lacks 'd'"),
    ]:  # fmt: skip
        (note,) = [note for note in sweep(runs)["notes"] if note.startswith("no threshold")]
        assert message in note


def test_the_tasks_of_a_mixed_set_are_runs_of_their_own():
    auto = [
        sample(id_, p_think=p, route=Route.THINK if p > 0.3 else Route.CHAT) for id_, p in P_THINK.items()
    ]
    runs = [("auto 1", auto[:3]), ("chat 1", CHAT[:1]), ("chat 2", CHAT[1:]), ("think 1", THINK[:2])]
    record = sweep([*runs, ("think 2", THINK[2:]), ("auto 2", auto[2:])])["threshold"]
    whole = sweep([("auto", auto), ("chat", CHAT), ("think", THINK)])["threshold"]
    assert {**record, "runs": None} == {**whole, "runs": None}
    assert record["runs"] == {
        "chat": ["chat 1", "chat 2"],
        "think": ["think 1", "think 2"],
        "p_think": ["auto 1", "auto 2"],
    }


def test_p_think_of_more_questions_than_the_runs_have_is_no_hindrance():
    more = [
        sample(i, p_think=p, route=r)
        for (i, p), r in zip({**P_THINK, "e": 0.5}.items(), [*Route] * 3, strict=False)
    ]
    assert sweep([("auto", more), ("chat", CHAT), ("think", THINK)])["threshold"]["num_questions"] == 4


def test_a_threshold_curve_is_of_one_base():
    auto = [
        sample(id_, p_think=p, route=Route.THINK if p > 0.3 else Route.CHAT) for id_, p in P_THINK.items()
    ]
    runs = [("auto", auto), ("chat", CHAT), ("think", THINK), ("elsewhere", [])]
    one = {"auto": "w4", "chat": "w4", "think": "w4", "elsewhere": "other"}
    assert sweep(runs, bases=one)["threshold"] == sweep(runs)["threshold"]
    for name in ("auto", "chat", "think"):
        record = sweep(runs, bases={**one, name: "official"})
        assert record["threshold"] is None
        assert any(name in note and "different bases" in note for note in record["notes"])


def test_a_run_without_rows_is_noted_and_names_must_differ():
    assert "no vote curve of empty: it has no samples" in sweep([("empty", [])])["notes"]
    with pytest.raises(ConfigError, match="two evaluations are called 'x'"):
        sweep([("x", CHAT), ("x", THINK)])
    with pytest.raises(ConfigError, match="at least one"):
        sweep([])
