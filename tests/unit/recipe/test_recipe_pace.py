"""How long stages will take, from paces worked out by hand."""

from __future__ import annotations

import pytest

from edgereason.recipe import pace as pace_module
from edgereason.recipe.pace import Pace, Stopwatch, estimates
from edgereason.recipe.stages import Stage


def test_what_comes_before_the_rows_is_paid_once() -> None:
    pace = Pace(seconds=100, row_s=2, amount=40)  # 20 s to load, 80 s for 40 rows
    assert pace.seconds_for(400) == 820
    assert pace.seconds_for(40) == 100
    assert pace.seconds_for(10) == 40


def test_without_a_measured_row_all_grows_and_nothing_shrinks() -> None:
    assert Pace(seconds=10, amount=4).seconds_for(12) == 30
    assert Pace(seconds=10, amount=4).seconds_for(2) == 10
    assert Pace(seconds=10).seconds_for(None) == 10  # a stage of next to nothing


def stage(name: str, amount=None) -> Stage:
    return Stage(name=name, products=(), run=lambda work, folder: {}, amount=amount, unit="rows")


def test_an_estimate_needs_a_pace_and_the_data() -> None:
    stages = [
        stage("sft", lambda counts: 2 * counts["sums"]),
        stage("grpo", lambda counts: counts["of the hub"]),
        stage("card"),
        stage("verifier", lambda counts: 7),
    ]
    paces = {name: Pace(seconds=30, row_s=1, amount=20) for name in ("sft", "grpo", "card")}
    found = estimates(stages, paces, {"sums": 50})
    assert [(one.stage, one.amount, one.seconds) for one in found] == [
        ("sft", 100, 110),  # 10 s, and 100 rows
        ("grpo", None, None),
        ("card", None, 30),
        ("verifier", 7, None),
    ]


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now[0])
    return now


def test_a_row_is_timed_by_the_longest_part_of_a_stage(clock) -> None:
    heard: list[tuple] = []
    watch = Stopwatch(lambda *told: heard.append(told))
    for now_s, part, done, total in (
        (10, "loading", 0, 1),
        (12, "loading", 1, 1),
        (20, "updates", 1, 4),  # the first update was over at 20 s
        (50, "updates", 4, 4),
    ):
        clock[0] = now_s
        watch(part, done, total)
    assert watch.row_s(8) == 5  # three updates in 30 s, each of two rows
    assert watch.seconds() == 50
    assert heard[-1] == ("updates", 4, 4, "", ())


def test_a_stage_without_progress_has_no_time_of_a_row(clock) -> None:
    watch = Stopwatch(lambda *told: None)
    assert watch.row_s(8) == 0
    watch("", 1, 1)
    assert watch.row_s(8) == 0


def test_a_pace_is_read_from_the_note_of_a_finished_stage() -> None:
    made = {"seconds": 9.5, "row_s": 0.5, "amount": 3, "rows": None, "peak_bytes": 7, "disk_bytes": 8}
    assert Pace.of({"made": made}) == Pace(seconds=9.5, row_s=0.5, amount=3, peak_bytes=7, disk_bytes=8)
    assert Pace.of({"config": {}}) is None
