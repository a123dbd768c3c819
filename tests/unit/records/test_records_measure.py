"""Interleaving and minima, with a clock that says what it is told; CPU shares from counters by hand."""

from __future__ import annotations

import itertools
import os

import pytest

from edgereason.records.measure import CpuWatch, Timings, interleave, timed


def test_cases_take_turns_and_after_round_comes_after_each_round():
    said = []
    interleave(
        {"a": lambda: said.append("a") or 1.0, "b": lambda: said.append("b") or 1.0},
        3,
        lambda: said.append("|"),
    )
    assert "".join(said) == "ab|ab|ab|"


def test_timed_counts_what_its_action_takes_on_the_clock():
    now = itertools.accumulate([10.0, 2.5, 100.0, 0.5])  # start, end, start, end
    case = timed(lambda: None, lambda: next(now))
    assert [case(), case()] == [2.5, 0.5]


def test_a_ratio_is_of_minima_even_where_they_fell_in_different_rounds():
    # A was disturbed in round 1, B in round 3: minima 2 and 4, so B/A = 2; means would give 4.67/3.33.
    script = {"a": iter([6.0, 2.0, 2.0]), "b": iter([4.0, 4.0, 6.0])}
    samples = interleave({name: lambda it=it: next(it) for name, it in script.items()}, 3)
    assert samples.seconds == {"a": [6.0, 2.0, 2.0], "b": [4.0, 4.0, 6.0]}
    assert samples.ratio("b", "a") == 2.0
    assert samples.best("b") == 4.0
    assert samples.mean("a") == pytest.approx(10 / 3)


def test_spread_is_median_over_minimum():
    samples = Timings({"a": [5.0, 2.0, 3.0]})
    assert samples.spread("a") == 1.5
    assert samples.summary() == {"a": {"min_s": 2.0, "spread": 1.5}}


def test_cpu_shares_come_from_the_counters(tmp_path, monkeypatch):
    # GIVEN counters of user nice system idle iowait irq softirq steal, 100 ticks a second
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    own = iter([0.0, 2.0])
    monkeypatch.setattr("edgereason.records.measure._own_s", lambda: next(own))
    stat = tmp_path / "stat"
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")
    watch = CpuWatch(stat)
    # WHEN of 10 s this process used 2, others 1 (3 busy in all), and the hypervisor took 2
    stat.write_text("cpu  200 0 100 500 0 0 0 200 0 0\n")
    # THEN
    assert watch.shares() == {"steal_share": 0.2, "others_share": pytest.approx(0.1)}


def test_what_its_own_processes_used_is_not_counted_as_others(tmp_path, monkeypatch):
    # GIVEN 10 s of which 3 were busy: 0.5 in this process, 2 in one that it started and that has ended
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    spent = iter([os.times_result((1.0, 1.0, 7.0, 0.0, 0.0)), os.times_result((1.25, 1.25, 8.5, 0.5, 10.0))])
    monkeypatch.setattr(os, "times", lambda: next(spent))
    stat = tmp_path / "stat"
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")
    watch = CpuWatch(stat)
    stat.write_text("cpu  200 0 100 700 0 0 0 0 0 0\n")
    # THEN half a second of ten is left for others
    assert watch.shares() == {"steal_share": 0.0, "others_share": pytest.approx(0.05)}


def test_cpu_shares_are_unknown_where_there_are_no_counters(tmp_path):
    assert CpuWatch(tmp_path / "none").shares() == {"steal_share": None, "others_share": None}
