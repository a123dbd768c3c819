"""What figures plot: series from records, against values by hand and against the writers' own functions."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from report_records import sample, trace, write_run

from benchmarks.peers.cases import PEERS, Case
from benchmarks.peers.plan import SHAPES
from benchmarks.peers.record import PeerRun as PeerRun
from benchmarks.peers.record import Standing, case_entry, peer_entry
from edgereason.bench.parallel import StepTiming, case_entries
from edgereason.bench.switch import length_entry
from edgereason.core.fields import Fields
from edgereason.core.types import Route
from edgereason.errors import ConfigError
from edgereason.evals.curves.sweep import sweep
from edgereason.records.measure import Timings
from edgereason.report.benchmarks import (
    Depth,
    FirstToken,
    contenders,
    first_tokens,
    parallel_depths,
    peer_panels,
)
from edgereason.report.curves import (
    Budgets,
    budget_blocks,
    budget_curves,
    run_curves,
    threshold_curve,
    vote_curves,
)
from edgereason.report.labels import place_labels, spread
from edgereason.report.lengths import LengthSeries, bin_edges, lengths, reductions
from edgereason.report.overview import changes, run_points
from edgereason.report.records import Record, RecordSource, read_records
from edgereason.report.style import whiskers


def record(values):
    return Record(RecordSource("r.json"), Fields(values, "r.json"))


@pytest.fixture
def runs(tmp_path):
    """Writes runs by name and reads them back."""

    def read(**samples):
        return read_records([write_run(tmp_path / name, rows) for name, rows in samples.items()]).runs

    return read


# ── lengths ──────────────────────────────────────────────────────────────────────────────────────


def test_lengths_are_the_winning_streams_and_ascend(runs):
    (run,) = runs(a=[sample("q1", 30), sample("q2", 10), sample("q1", 20, repeat=1)])
    assert lengths([run]) == [LengthSeries("a", (10, 20, 30))]


def test_the_cdf_counts_what_is_at_most_so_long():
    assert LengthSeries("a", (10, 10, 20, 40)).cdf == ([10, 20, 40], [0.5, 0.75, 1.0])


def test_a_bin_holds_its_lower_edge_and_not_its_upper():
    assert LengthSeries("a", (0, 9, 10, 29)).shares([0, 10, 20, 30]) == [0.5, 0.25, 0.25]


def test_bins_are_few_of_round_width_and_hold_the_longest():
    for longest in (1, 39, 40, 41, 200, 512, 4096, 32768):
        edges = bin_edges(longest)
        (width,) = {high - low for low, high in pairwise(edges)}
        assert str(width).rstrip("0") in ("1", "2", "5")
        assert edges[0] == 0
        assert edges[-2] <= longest < edges[-1]
        assert len(edges) <= 42
    # 512 tokens: widths 1, 2, 5 and 10 make more than 40 bins, 20 makes 26.
    assert bin_edges(512)[:2] == [0, 20]


def test_a_questions_ratio_is_of_means_over_repetitions_and_ratios_are_sorted(runs):
    # Lengths before: q1 (10 + 30) / 2 = 20, q2 40; after: q1 10, q2 60. Ratios 0.5 and 1.5, means 30 and 35.
    before, after = runs(
        before=[sample("q1", 10), sample("q1", 30, repeat=1), sample("q2", 40)],
        after=[sample("q2", 60), sample("q1", 10)],
    )
    (found,) = reductions([before, after])
    assert (found.reference, found.label, found.ratios) == ("before", "after", (0.5, 1.5))
    assert found.mean_ratio == 35 / 30
    assert found.share_shorter == 0.5


def test_a_response_of_the_same_length_did_not_get_shorter(runs):
    found = reductions(runs(a=[sample("q1", 10), sample("q2", 10)], b=[sample("q1", 10), sample("q2", 5)]))
    assert found[0].share_shorter == 0.5


def test_only_runs_over_the_same_questions_are_paired_and_keep_their_colour(runs):
    rows = [sample("q1"), sample("q2")]
    found = reductions(runs(a=rows, other=[sample("q1")], b=rows))
    assert [(one.label, one.place) for one in found] == [("b", 2)]


def test_a_question_without_a_token_in_the_reference_has_no_ratio(runs):
    found = reductions(runs(a=[sample("q1", 0), sample("q2", 10)], b=[sample("q1", 5), sample("q2", 5)]))
    assert (found[0].ratios, found[0].num_unmeasured) == ((0.5,), 1)


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────


def test_whiskers_reach_from_the_accuracy_to_the_ends_of_its_interval(tmp_path):
    folder = write_run(tmp_path / "a", [sample("q1")], accuracy=0.5, ci95=[0.25, 0.875], mean_tokens=12.0)
    (point,) = run_points(read_records([folder]).runs)
    assert (point.mean_tokens, point.accuracy) == (12.0, 0.5)
    assert whiskers([point.accuracy], [point.ci95]) == [[0.25], [0.375]]


def test_whiskers_never_reach_backwards_where_an_interval_is_rounded_past_its_middle():
    assert whiskers([0.0], [(1e-18, 0.25)]) == [[0.0], [0.25]]


def test_a_change_is_in_points_and_per_cent_and_bytes(tmp_path):
    rows = [sample("q1"), sample("q2")]  # the same scores in both: no resample differs
    before = write_run(tmp_path / "a", rows, accuracy=0.5, mean_tokens=200, latency_s=8.0)
    bundle = {"name": "b", "size_bytes": 17_400_000}
    after = write_run(tmp_path / "b", rows, accuracy=0.375, mean_tokens=100.0, latency_s=8.0, bundle=bundle)
    first, second = read_records([before, after]).runs
    assert changes(second, first) == "−12.5 points (±0.0 to ±0.0), −50 % tokens, ±0 % s, +17.4 MB"


def test_runs_of_other_questions_have_no_change(runs):
    first, second = runs(a=[sample("q1")], b=[sample("q2")])
    assert changes(second, first) == "other questions"


# ── sweeps ───────────────────────────────────────────────────────────────────────────────────────


def test_vote_curves_are_the_sweeps_with_bands_of_one_deviation():
    answers = [("7", 1.0), ("7", 1.0), ("8", 0.0), ("9", 0.0)]
    traces = tuple(trace(i, answer=a, score=s) for i, (a, s) in enumerate(answers))
    values = sweep([("run", [sample(f"q{i}", traces=traces) for i in range(3)])])
    points = values["votes"]["run"]["points"]
    (votes,) = vote_curves(record(values))
    (majority,) = votes.curves  # no verifier: the others can't be drawn
    assert (votes.run, majority.name) == ("run", "majority")
    assert majority.x == tuple(point["n"] for point in points) == (1, 2, 3, 4)
    for i, point in enumerate(points):
        figures = point["votes"]["majority"]
        assert majority.accuracy[i] == figures["accuracy"]
        assert majority.high[i] - majority.low[i] == pytest.approx(2 * figures["std"])
    # Of 4 traces 2 are right: a single one is in 1/2, one of two in 1 − (2/4 · 1/3) = 5/6.
    assert votes.oracle.accuracy == pytest.approx((1 / 2, 5 / 6, 1.0, 1.0))
    assert majority.accuracy[0] == 0.5


def test_a_sweep_without_votes_thresholds_and_budgets_has_no_curves():
    values = record(sweep([("run", [sample("q1")])]))
    assert (vote_curves(values), threshold_curve(values), budget_curves(values)) == ([], None, [])


def test_the_threshold_curve_runs_from_chat_to_think():
    # GIVEN an easy question that both routes get right, and a hard one that only thinking does
    chat = [sample(id_, 10, score, route=Route.CHAT) for id_, score in (("easy", 1.0), ("hard", 0.0))]
    think = [sample(id_, 30, 1.0) for id_ in ("easy", "hard")]
    # WHEN the switcher sends the hard one to think first
    auto = [
        sample("easy", 10, 1.0, route=Route.CHAT, p_think=0.2),
        sample("hard", 30, 1.0, p_think=0.8),
    ]
    curve = threshold_curve(record(sweep([("chat", chat), ("think", think), ("auto", auto)])))
    # THEN accuracy is there at half the way, where routing at random has got half of it
    assert curve.share_think == pytest.approx((0.0, 0.5, 1.0, 1.0)[: len(curve.share_think)])
    assert curve.accuracy == pytest.approx((0.5, 1.0, 1.0, 1.0)[: len(curve.accuracy)])
    assert curve.mean_tokens == pytest.approx((10, 20, 30, 30)[: len(curve.mean_tokens)])
    assert curve.random_accuracy[:2] == pytest.approx((0.5, 0.75))
    assert len(curve.share_think) >= 3


def test_budgets_ascend_with_whiskers_from_their_intervals():
    values = {
        "budgets": [128, 64],
        "accuracy": [0.5, 0.25],
        "ci95": [[0.375, 0.75], None],
        "share_truncated": [0.125, 0.5],
        "untruncated": {"accuracy": 0.625, "mean_tokens": 150},
    }
    (curve,) = budget_curves(record({"budgets": {"run": values}}))
    assert curve == Budgets("run", (64, 128), (0.25, 0.5), (None, (0.375, 0.75)), (0.5, 0.125), 0.625)
    assert whiskers(curve.accuracy, curve.ci95) == [[0.0, 0.125], [0.0, 0.25]]


def test_budgets_and_accuracies_that_do_not_match_are_refused_by_name():
    values = {"budgets": {"run": {"budgets": [64, 128], "accuracy": [0.5]}}}
    with pytest.raises(ConfigError, match=r"r.json: budgets: run: accuracy has 1 entries for 2 budgets"):
        budget_curves(record(values))


def under(folder, budget, *, bundle="b1", temperature=0.0, **summary):
    write_run(folder, [sample("q1", budget, 1.0), sample("q2", budget, budget / 128)], **summary)
    settings = f"budget = {budget}\ntemperature = {temperature}\nparallel = {budget}\nlabel = 'any'"
    (folder / "run.toml").write_text(f"[eval]\n{settings}\n")
    values = json.loads((folder / "summary.json").read_text())
    values |= {"bundle": {"sha256": [bundle]}, "data": {"sha256": "d1"}}
    (folder / "summary.json").write_text(json.dumps(values))
    return folder


def test_runs_that_differ_in_their_hard_budget_and_no_more_are_a_line(tmp_path):
    read = read_records(
        [
            under(tmp_path / "a", 128, label="GRPO, 128"),
            under(tmp_path / "b", 64, label="GRPO, 64"),
            under(tmp_path / "c", 96, label="another adapter", bundle="b2"),
            under(tmp_path / "d", 32, label="drawn, not greedy", temperature=0.7),
        ]
    )
    ((curve, runs),) = run_curves(read.runs)
    assert (curve.run, curve.budgets, curve.accuracy) == ("GRPO", (64, 128), (0.75, 1.0))
    assert [run.label for run in runs] == ["GRPO, 64", "GRPO, 128"]


def test_traces_that_were_cut_stand_beside_runs_on_the_same_data(tmp_path):
    curve = {"budgets": [64, 128], "accuracy": [0.0, 0.5]}
    for data in ("d1", "d2"):
        values = {"format": "edgereason-sweep", "budgets": {"whole": curve}}
        values |= {"runs": {"whole": {"data": {"sha256": data}}}}
        (tmp_path / f"{data}.json").write_text(json.dumps(values))
    runs = [under(tmp_path / "a", 64, label="x"), under(tmp_path / "b", 128, label="y")]
    plot = budget_blocks(read_records([*runs, tmp_path / "d1.json", tmp_path / "d2.json"]))[-1]
    assert plot.name == "live-budgets-gsm8k"
    assert [source.name for source in plot.sources] == ["d1.json", "a", "b"]


# ── benches ──────────────────────────────────────────────────────────────────────────────────────


def test_parallel_cases_become_a_line_for_every_depth():
    # Steps of 10 and 20 ms: the second of two streams costs as much as the first.
    timings = {(128, n): [StepTiming(s, 200), StepTiming(2 * s, 200)] for n, s in ((1, 0.01), (2, 0.02))}
    cases = case_entries(timings, kv_bytes_per_cell=1, read_per_token_bytes=1, bandwidth=1.0)
    (line,) = parallel_depths(record({"cases": cases}))
    assert line == Depth(
        128, (1, 2), (1.0, 2.0), pytest.approx((100, 100)), pytest.approx((100 / 1.5, 100 / 1.5))
    )


def test_times_to_the_first_token_become_a_line_for_every_route():
    def rounds(seconds):
        cases = ("chat", "chat_with_features", "think_shared", "think_reencoded")
        return Timings({case: [seconds, 3 * seconds, 2 * seconds] for case in cases})

    values = {"lengths": [length_entry(256, rounds(2.0)), length_entry(64, rounds(1.0))]}
    lines = first_tokens(record(values))
    assert [line.case for line in lines] == list(values["lengths"][0]["ttft"])
    assert lines[0] == FirstToken("chat", (64, 256), (1.0, 2.0), (2.0, 4.0))


def test_peers_have_a_panel_for_every_case_and_the_early_vote_is_a_mark():
    # GIVEN ours at 2 and 4 s in every case, a peer at 3 s that has no early vote, and one not installed
    standings = {name: Standing() for name in ("edgereason", "xllamacpp")}
    for shape in SHAPES:
        tokens = shape.num_completions * shape.limit_tokens
        for name, seconds in (("edgereason", (2.0, 4.0)), ("xllamacpp", (3.0,))):
            for s in seconds:
                if name == "edgereason" or not shape.only_ours:
                    answers = 8 if shape.votes else None
                    standings[name].add(shape.name, PeerRun(seconds=s, tokens=tokens, num_answers=answers))
    standings["openvino-genai"] = Standing(missing=["openvino_genai"])
    cases = {}
    for shape in SHAPES:
        case = Case(
            name=shape.name,
            question="?",
            prompt_ids=tuple(range(40)),
            num_completions=shape.num_completions,
            limit_tokens=shape.limit_tokens,
        )
        cases[shape.name] = case_entry(shape, case, standings, 0.01)
    peers = {name: peer_entry(PEERS[name], standing) for name, standing in standings.items()}
    values = record({"peers": peers, "cases": cases})
    # WHEN they are drawn
    assert contenders(values) == ("edgereason", "xllamacpp")
    prefill, decode, *_, vote = peer_panels(values)
    # THEN prefill counts the prompt's 40 tokens, decoding its 128, and the medians are 3 s
    assert prefill.values == pytest.approx((20, 40 / 3))
    assert prefill.medians == pytest.approx((40 / 3, 40 / 3))
    assert decode.values == pytest.approx((64, 128 / 3))
    assert (vote.is_seconds, vote.values, vote.medians, vote.early) == (True, (2.0, 3.0), (3.0, 3.0), 2.0)
    assert (prefill.early, decode.early) == (None, None)


# ── labels ───────────────────────────────────────────────────────────────────────────────────────


def test_labels_that_have_room_stay():
    assert spread([0.5, 0.1, 0.9], 0.1) == [0.5, 0.1, 0.9]


def test_labels_too_near_are_spread_about_their_middle_in_their_order():
    assert spread([0.5, 0.5, 0.9], 0.2) == pytest.approx([0.4, 0.6, 0.9])
    # 0.4 is pulled in: three about (0.5 + 0.5 + 0.4) / 3, a gap apart.
    assert spread([0.5, 0.5, 0.4], 0.2) == pytest.approx([1.4 / 3, 1.4 / 3 + 0.2, 1.4 / 3 - 0.2])


def test_labels_stay_below_the_top():
    assert spread([1.0, 1.0, 0.2], 0.2, top=1.1) == pytest.approx([0.8, 1.0, 0.2])


def test_a_points_label_goes_left_where_another_point_is_right_of_it():
    points, size, gap = [(0.0, 0.0), (10.0, 0.0)], (20.0, 4.0), 2.0
    boxes = [(x - 1, y - 1, x + 1, y + 1) for x, y in points]
    places = place_labels(points, [size, size], boxes, (-100.0, 100.0), gap)
    assert places == [(-22.0, 0.0), (12.0, 0.0)]


def test_a_points_label_goes_above_where_both_sides_are_taken():
    points, gap = [(0.0, 0.0), (10.0, 0.0), (-10.0, 0.0)], 2.0
    boxes = [(x - 1, y - 1, x + 1, y + 1) for x, y in points]
    (first, *_) = place_labels(points, [(20.0, 4.0)] * 3, boxes, (-100.0, 100.0), gap)
    assert first == (2.0, 4.0)  # a gap and half the height above


def test_a_label_that_nothing_is_free_for_is_right_of_its_point():
    assert place_labels([(0.0, 0.0)], [(5.0, 5.0)], [(-99, -99, 99, 99)], (-9, 9), 1.0) == [(1.0, 0.0)]
