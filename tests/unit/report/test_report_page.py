"""The page and its figures: what is read and refused, what stands on the page, and what is drawn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from report_records import COMMIT, MODEL, perplexity, sample, trace, write_json, write_run
from typer.testing import CliRunner

from benchmarks.peers import bench as peers
from edgereason.bench import engine, parallel, switch
from edgereason.cli.eval import report
from edgereason.core.types import Route
from edgereason.errors import ConfigError
from edgereason.evals import run
from edgereason.evals.curves import sweep
from edgereason.evals.likelihood.loglik import ChoiceRow, summarise
from edgereason.report import records
from edgereason.report.benchmarks import engine_blocks
from edgereason.report.lengths import LengthSeries, Reduction, draw_lengths, draw_reductions
from edgereason.report.overview import Point, draw_points, quantization_blocks, system_blocks
from edgereason.report.page import PAGE, PARTS, write_report
from edgereason.report.records import read_records

BENCH = Path(__file__).parents[3] / "benchmarks" / "engine-qwen2.5-coder-0.5b-epyc-2cpu-upstream-kernels.json"


@pytest.fixture
def figure():
    from matplotlib.figure import Figure

    return Figure(figsize=(8, 4), layout="constrained")


def rows(score: float = 1.0, num_tokens: int = 10) -> list:
    return [sample("q1", num_tokens, score), sample("q2", 2 * num_tokens)]


def text_of(blocks) -> str:
    """The tables and sentences of a part; plots are not drawn."""
    return "\n".join(block for block in blocks if isinstance(block, str))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Records of every kind that needs no machine, and the folder that they were drawn into once."""
    folder = tmp_path_factory.mktemp("records")
    chat = [sample(f"q{i}", 10, i % 2, route=Route.CHAT) for i in range(4)]
    auto = [replace(one, p_think=i / 4) for i, one in enumerate(chat)]
    traces = (trace(0, num_tokens=30), trace(1, num_tokens=20, answer="8", score=0.0))
    think = [sample(f"q{i}", 30, traces=traces) for i in range(4)]
    budgets = {"think": {"budgets": [32, 64], "accuracy": [0.25, 0.75], "ci95": [[0, 1], [0.5, 1]]}}
    curves = sweep.sweep([("chat", chat), ("think", think), ("auto", auto)], budgets=budgets)
    paths = [
        write_run(folder / "chat", chat, label="base, chat"),
        write_run(folder / "think", think, label="+ thinking"),
        write_json(folder / "sweep.json", curves),
        write_json(folder / "ppl.json", perplexity(20.0)),
        BENCH,
    ]
    write_report(paths, folder / "out")
    return paths, folder / "out"


# ── what is read ─────────────────────────────────────────────────────────────────────────────────


def test_formats_are_those_that_writers_write():
    assert (records.SWEEP, records.PERPLEXITY) == (sweep.FORMAT, run.PPL_FORMAT)
    assert set(records.BENCHES) == {one.FORMAT for one in (engine, parallel, peers, switch)}


def test_a_record_is_known_by_its_content_whatever_it_is_called(tmp_path):
    folder = write_run(tmp_path / "sweep.json", rows())
    ppl = write_json(tmp_path / "samples.jsonl", perplexity(20.0))
    read = read_records([ppl, folder])
    assert [run.source.name for run in read.runs] == ["sweep.json"]
    assert [one.source.name for one in read.perplexities] == ["samples.jsonl"]


def test_compressed_rows_are_read_too(tmp_path):
    (run,) = read_records([write_run(tmp_path / "a", rows(), compressed=True)]).runs
    assert [one.num_tokens for one in run.samples] == [10, 20]


def test_records_and_labels_of_one_name_are_told_apart(tmp_path):
    paths = [
        write_run(tmp_path / name / "run", rows(), label=label)
        for name, label in zip("ab", "xx", strict=True)
    ]
    read = read_records(paths)
    assert [(str(run.source), run.label) for run in read.runs] == [
        ("run @ e8bb201", "x"),
        ("run (2) @ e8bb201", "x (2)"),
    ]


def test_a_commit_that_files_differed_from_keeps_its_mark():
    assert str(records.RecordSource("run", COMMIT + "+")) == "run @ e8bb201+"
    assert str(records.RecordSource("run")) == "run"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not JSON", r"bad.json is not JSON"),
        ("[1]", r"bad.json must be a JSON object, got list"),
        (
            '{"format": "edgereason-bundle"}',
            r"bad.json is not a record: its format is 'edgereason-bundle', known",
        ),
        ('{"format": "edgereason-eval"}', r"bad.json is the summary of an evaluation: give the folder"),
        ('{"format": "edgereason-ppl"}', r"bad.json lacks ppl"),
        ('{"format": "edgereason-ppl", "ppl": "low"}', r"bad.json: ppl must be a number, got 'low'"),
        (
            '{"format": "edgereason-sweep", "votes": {"a": {"points": [{}, {}]}}}',
            r"votes: a: points\[0\] lacks n",
        ),
    ],
)
def test_an_unreadable_record_is_named_and_changes_nothing(tmp_path, content, message):
    output, bad = tmp_path / "out", tmp_path / "bad.json"
    output.mkdir()
    (output / PAGE).write_text("as it was")
    bad.write_text(content)
    with pytest.raises(ConfigError, match=message):
        write_report([bad], output)
    assert files(output) == {PAGE: b"as it was"}


def test_a_record_that_fails_after_figures_were_drawn_changes_nothing_either(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / PAGE).write_text("as it was")
    bad = write_json(tmp_path / "bad.json", perplexity(20.0) | {"ppl": None})
    with pytest.raises(ConfigError, match=r"bad.json lacks ppl"):
        write_report([write_run(tmp_path / "good", rows()), bad], output)
    assert files(output) == {PAGE: b"as it was"}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda folder: (folder / "summary.json").unlink(),
            r"run does not hold summary.json: give the folder of a",
        ),
        (lambda folder: (folder / "summary.json").write_text('{"format": "x"}'), r"format is 'x', expected"),
        (lambda folder: (folder / "samples.jsonl").unlink(), r"run holds no samples.jsonl"),
        (
            lambda folder: (folder / "samples.jsonl").write_text("{}\n"),
            r"samples.jsonl, line 1 is not a Sample",
        ),
        (lambda folder: (folder / "samples.jsonl").write_text(""), r"run has no rows"),
    ],
)
def test_a_folder_that_is_no_finished_evaluation_is_refused(tmp_path, break_it, message):
    folder = write_run(tmp_path / "run", rows())
    break_it(folder)
    with pytest.raises(ConfigError, match=message):
        write_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_summary_of_other_rows_than_there_are_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="counts 3 rows and there are 2"):
        write_report([write_run(tmp_path / "run", rows(), n=3)], tmp_path / "out")


def test_a_path_where_nothing_is_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none.json can't be read: No such file"):
        write_report([tmp_path / "none.json"], tmp_path / "out")


def test_a_record_given_twice_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", rows())
    with pytest.raises(ConfigError, match="given twice"):
        write_report([folder, tmp_path / "run" / ".." / "run"], tmp_path / "out")


def test_without_matplotlib_the_extra_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", rows())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'edgereason\[eval\]'"):
        write_report([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ── what stands on the page ──────────────────────────────────────────────────────────────────────


def test_the_whole_system_is_a_row_a_run_in_the_order_given(tmp_path):
    # Lengths 10 and 20, then 5 and 10; 1 and 2 seconds, then 0.5 and 1; one of two right, then both.
    base = write_run(tmp_path / "zz", rows(score=0.0), label="base")
    bundle = {"name": "b", "size_bytes": 17_400_000}
    ours = write_run(tmp_path / "aa", rows(num_tokens=5), label="+ adapter", bundle=bundle)
    page = text_of(system_blocks(read_records([base, ours])))
    (first, second) = re.findall(r"^\| (?:base|\+ adapter) \|.*$", page, re.MULTILINE)
    low, high = json.loads((base / "summary.json").read_text())["ci95"]
    assert first == (
        f"| base | 50.0 % ({100 * low:.1f}–{100 * high:.1f}) | 15 | 0 % | 1.50 | 60.0 | 360.7 MB | — |"
    )
    assert second.endswith(
        "| 8 | 0 % | 0.75 | 60.0 | 378.1 MB | +50.0 points (±0.0 to +100.0), −50 % tokens, "
        "−50 % s, +17.4 MB |"
    )


def test_what_a_summary_lacks_is_a_dash(tmp_path):
    figures = ("accuracy", "ci95", "mean_tokens", "share_cut", "latency_s", "tokens_per_s")
    folder = write_run(tmp_path / "run", rows(), **dict.fromkeys((*figures, "model")))
    assert "| run | — | — | — | — | — | — | — |" in text_of(system_blocks(read_records([folder])))


def test_a_record_without_commit_and_machine_has_dashes(drawn):
    assert "| ppl.json | ppl | — | — |" in (drawn[1] / PAGE).read_text("utf-8")


def test_tokens_of_all_streams_stand_in_brackets(tmp_path):
    two = (trace(0, num_tokens=10), trace(1, num_tokens=30))
    folder = write_run(tmp_path / "run", [sample("q1", 10, traces=two)])
    assert "| 10 (40) |" in text_of(system_blocks(read_records([folder])))


def test_perplexities_have_the_accuracies_of_runs_on_the_same_file_beside(tmp_path):
    # GIVEN two models of which the second has a run, and an evaluation by likelihood on the first
    choice = ChoiceRow(
        id="a",
        gold=0,
        logprobs=(-1.0, -2.0),
        num_bytes=(1, 1),
        num_tokens=(1, 1),
        is_greedy=(True, False),
        pred=0,
        pred_norm=0,
    )
    likelihood = write_run(tmp_path / "arc", rows())
    (likelihood / "samples.jsonl").write_text(json.dumps(choice.to_json()) + "\n")
    summary = {"format": "edgereason-eval", "label": None, "model": {**MODEL, "sha256": "cd" * 32}}
    figures = summarise("arc-easy", [choice]).to_json()
    write_json(likelihood / "summary.json", {**summary, **figures})
    paths = [
        write_json(tmp_path / "f16.json", perplexity(20.0, "cd" * 32, ppl_ci95=[19.0, 21.0])),
        write_json(tmp_path / "q4.json", perplexity(25.0)),
        likelihood,
        write_run(tmp_path / "run", rows(), label="think", accuracy=0.5, ci95=[0.25, 0.75]),
    ]
    # WHEN they are reported
    page = text_of(quantization_blocks(read_records(paths)))
    # THEN one table has all of it
    ppl = "perplexity of wikitext2_test.raw (efefefe), windows of 2,048, 2,048 apart"
    assert f"| model | bytes | {ppl} | arc-easy, by likelihood | gsm8k | records |" in page
    weighed = "20.000 (19.000–21.000) | 100.0 % (0.0–100.0) | —"
    assert f"| cd.gguf | 500.0 MB | {weighed} | f16.json, arc |" in page
    run = "25.000, ×1.250 | — | think: 50.0 % (25.0–75.0)"
    assert f"| ab.gguf | 500.0 MB | {run} | q4.json, run @ e8bb201 |" in page


def test_likelihoods_over_cyclic_orders_have_a_column_of_their_own(tmp_path):
    def weighed(name, acc, **config):
        values = {"format": "edgereason-eval", "task": "mmlu", "label": None, "acc": acc, "acc_ci95": None}
        return write_run_summary(tmp_path / name, {**values, "model": MODEL, "config": config})

    paths = [
        weighed("old", 0.25, task="mmlu"),
        weighed("cyclic", 0.5, orders="cyclic", shots=0, kv="f16"),
        weighed("five", 0.75, orders="cyclic", shots=5, kv="q8_0"),
        write_json(tmp_path / "ppl.json", perplexity(20.0, kv="q8_0")),
    ]
    page = text_of(quantization_blocks(read_records(paths)))
    given, cyclic = "mmlu, by likelihood", "mmlu, by likelihood, cyclic orders"
    assert f"| {given} | {cyclic} | {cyclic}, 5 examples | records |" in page
    assert "| 20.000, q8_0 KV | 25.0 % | 50.0 % | 75.0 %, q8_0 KV |" in page


def write_run_summary(folder, summary):
    folder.mkdir()
    write_json(folder / "summary.json", summary)
    return folder


def test_perplexities_over_other_windows_have_a_column_of_their_own(tmp_path):
    paths = [
        write_json(tmp_path / "a.json", perplexity(20.0)),
        write_json(tmp_path / "b.json", perplexity(15.0, stride_tokens=512)),
    ]
    page = text_of(quantization_blocks(read_records(paths)))
    assert "2,048 apart | perplexity of" in page
    assert "| 20.000 | 15.000 |" in page


def test_the_engines_figures_stand_beside_their_targets():
    page = text_of(engine_blocks(*read_records([BENCH]).benches[engine.FORMAT]))
    assert "| `step_ratio_n1` | 0.996 | ≤ 1.05 ✓ | 1.006 |" in page
    assert "| `streams4_ratio` | 2.364 | ≤ 1.75 ✗ | 2.740 |" in page
    assert "| `decode_tokens_per_s_n1` | 68.1 | — | 36.7 |" in page
    assert f"Record: {BENCH.name} @ 30c7fb4." in page
    assert "the default file was measured in 3 rounds, the Q4_0 in 7" in page


def test_every_figure_is_there_and_names_its_record_below_and_in_its_corner(drawn):
    _, output = drawn
    figures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)\n\n(.+)", (output / PAGE).read_text("utf-8"))
    assert [name for name, _ in figures] == [
        "accuracy-tokens-gsm8k.svg",
        "lengths-gsm8k.svg",
        "reduction-gsm8k.svg",
        "switcher-sweep.svg",
        "budgets-sweep.svg",
        "votes-sweep.svg",
    ]
    assert files(output).keys() == {PAGE, *(name for name, _ in figures)}
    for name, caption in figures:
        source = "sweep.json" if "sweep" in name else "chat @ e8bb201, think @ e8bb201"
        assert re.search(rf"Records?: {source}\.$", caption)
        assert f"<!-- drawn from {source} -->" in (output / name).read_text("utf-8")


def test_what_can_not_be_drawn_is_said_at_the_end(tmp_path):
    write_report([write_json(tmp_path / "ppl.json", perplexity(20.0))], tmp_path / "out")
    page = (tmp_path / "out" / PAGE).read_text()
    last = page.strip().splitlines()[-1]
    assert last.startswith("Not drawn, for want of records: ")
    for part in PARTS:
        is_drawn = part.title == "Quantization"
        assert (f"## {part.title}\n" in page) is is_drawn
        assert (f"*{part.title}* needs {part.needs}" in last) is not is_drawn


def test_a_page_that_has_all_parts_misses_nothing(drawn):
    page = (drawn[1] / PAGE).read_text("utf-8")
    missing = {part.title for part in PARTS if f"*{part.title}* needs" in page}
    assert missing == {"Parallel scaling", "Peers", "Switching"}


def test_names_that_mean_something_to_markdown_are_text(tmp_path):
    folder = write_run(tmp_path / "run", rows(), label="a|b *c* <d> $5")
    assert r"| a\|b \*c\* &lt;d> $5 |" in text_of(system_blocks(read_records([folder])))


def test_nothing_names_a_local_path(drawn):
    _, output = drawn
    for content in files(output).values():
        assert str(output.parent).encode() not in content


def test_the_same_records_give_the_same_bytes_in_another_process(drawn, tmp_path):
    paths, output = drawn
    code = "import sys; from pathlib import Path; from edgereason.report.page import write_report; "
    code += "*paths, output = map(Path, sys.argv[1:]); write_report(paths, output)"
    again = tmp_path / "again"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-W", "error", "-c", code, *paths, again], env=environment, check=True)
    assert files(again) == files(output)


def test_other_files_in_the_folder_stay(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    write_report([write_json(tmp_path / "ppl.json", perplexity(20.0))], output)
    assert files(output).keys() == {"notes.txt", PAGE}


def test_figures_of_one_name_are_told_apart():
    taken = set()
    names = [records.distinct(name, taken, "-{}") for name in ("a", "a", "a-2", "a")]
    assert names == ["a", "a-2", "a-2-2", "a-3"]


# ── what figures show ────────────────────────────────────────────────────────────────────────────


def test_points_are_drawn_where_they_are_with_their_whiskers(figure):
    draw_points([Point(0, "a", 100.0, 0.5, (0.25, 0.875)), Point(1, "b", 200.0, 0.75, None)], figure)
    (axes,) = figure.axes
    whiskers = [segment.tolist() for bars in axes.collections for segment in bars.get_segments()]
    assert whiskers == [[[100.0, 0.25], [100.0, 0.875]], [[200.0, 0.75], [200.0, 0.75]]]
    assert [text.get_text() for text in axes.texts] == ["a", "b"]


def test_the_cdf_starts_at_nothing_and_ends_at_all(figure):
    draw_lengths([LengthSeries("a", (10, 20, 20, 40))], figure)
    _, right = figure.axes
    (line,) = right.lines
    # 40 is the longest, and the last bin of width 2 ends at 42.
    assert line.get_xydata().tolist() == [[10, 0], [10, 0.25], [20, 0.75], [40, 1.0], [42, 1.0]]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["a (20)"]


def test_each_questions_ratio_is_drawn_in_the_middle_of_its_share(figure):
    draw_reductions([Reduction("a", "b", (0.25, 2.0), 0.5, 1)], figure)
    (axes,) = figure.axes
    curve = axes.lines[1]
    assert curve.get_xydata().tolist() == [[0.25, 0.25], [0.75, 2.0]]
    assert [text.get_text() for text in axes.texts] == ["b\n50 % shorter, mean 0.50×"]


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def test_the_command_prints_where_the_page_is(tmp_path):
    app = typer.Typer()
    app.command()(report)
    output = tmp_path / "out"
    record = write_json(tmp_path / "ppl.json", perplexity(20.0))
    ran = CliRunner().invoke(app, [str(record), "-o", str(output)])
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, f"{output / PAGE}\n", "0 figures\n")
