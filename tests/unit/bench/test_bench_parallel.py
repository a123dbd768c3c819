"""`bench parallel`: figures from steps by hand, what every bench's record shares, and once for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgereason.bench.parallel import ParallelBenchConfig, StepTiming, bench_parallel, case_entries
from edgereason.bench.progress import BenchTurn, Listener, take_turns
from edgereason.bench.record import Recording, Subject, rounded, trial_note
from edgereason.cli.bench import bench_app
from edgereason.errors import ConfigError

runner = CliRunner()


def entries(timings):
    return case_entries(timings, kv_bytes_per_cell=1000, read_per_token_bytes=10**8, bandwidth=10**10)


def test_a_case_is_its_best_round_and_its_ratio_is_to_one_stream_at_the_same_depth():
    one, four = entries(
        {
            (128, 1): [StepTiming(0.05, 160), StepTiming(0.02, 160), StepTiming(0.03, 160)],
            (128, 4): [StepTiming(0.04, 214), StepTiming(0.10, 214), StepTiming(0.06, 214)],
        }
    )
    assert (one["depth"], one["streams"], one["min_step_s"], one["median_step_s"]) == (128, 1, 0.02, 0.03)
    assert (one["latency_ratio"], one["tokens_per_s"]) == (1.0, pytest.approx(50))
    # 0.04 s a step for four tokens; the median round took 0.06
    assert four["latency_ratio"] == pytest.approx(2.0)
    assert four["tokens_per_s"] == pytest.approx(100)
    assert four["median_tokens_per_s"] == pytest.approx(4 / 0.06)
    assert (four["kv_cells"], four["kv_bytes"]) == (214, 214_000)


def test_a_depth_is_compared_with_its_own_single_stream():
    shallow, deep, deep_two = entries(
        {
            (16, 1): [StepTiming(0.01, 20)],
            (512, 1): [StepTiming(0.02, 600)],
            (512, 2): [StepTiming(0.03, 620)],
        }
    )
    assert (shallow["latency_ratio"], deep["latency_ratio"]) == (1.0, 1.0)
    assert deep_two["latency_ratio"] == pytest.approx(1.5)


def test_only_a_single_stream_is_held_against_memory():
    one, two = entries({(16, 1): [StepTiming(0.02, 20)], (16, 2): [StepTiming(0.02, 30)]})
    # 100 MB in 20 ms are 5 GB/s, of the 10 that memory delivers
    assert one["roofline_share"] == pytest.approx(0.5)
    assert two["roofline_share"] is None


def test_one_stream_is_always_among_those_measured():
    assert ParallelBenchConfig(streams=(8, 2)).all_streams == (1, 2, 8)
    assert ParallelBenchConfig(streams=(4, 1)).all_streams == (1, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"streams": (1, 65)}, "each of streams must be between 1 and 64, got 65"),
        ({"streams": ()}, "streams must name at least one number"),
        ({"depths": (0, 128)}, "each of depths must be at least 1, got 0"),
        ({"depths": (128, 128)}, "depths must differ from each other, got 128, 128"),
    ],
)
def test_a_config_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ParallelBenchConfig(**options)


def test_a_list_that_is_none_is_a_usage_error():
    app = typer.Typer()
    app.add_typer(bench_app)
    result = runner.invoke(app, ["bench", "parallel", "--streams", "1,two"])
    assert result.exit_code == 2
    assert "--streams takes numbers such as 1,2,4, got '1,two'" in " ".join(
        result.output.replace("│", " ").split()
    )


def test_a_recording_names_files_without_their_folders(tmp_path, monkeypatch):
    # memory that delivers 10 GB/s before measuring, and 8 after it, in a disturbed minute
    rates = iter([1e10, 8e9])
    monkeypatch.setattr("edgereason.bench.record.read_bandwidth", lambda threads: next(rates))
    path = tmp_path / "base.gguf"
    subject = Subject(source=path, source_sha256="ab", path=path, quantization="Q4_0", threads=2)
    with Recording(subject) as recording:
        pass
    record = recording.close(
        {"figure": 1.23456789, "rounds": 3}, format="f", config={"model": str(path), "rounds": 3}, notes=["n"]
    )
    assert str(tmp_path) not in json.dumps(record)
    assert record["source"] == {"name": "base.gguf", "sha256": "ab"}
    assert record["config"] == {"model": "base.gguf", "rounds": 3, "threads": 2}
    assert record["machine"]["read_bytes_per_s"] == 1e10
    assert record["figure"] == 1.23457
    assert record["notes"] == ["a trial: 3 rounds, figures need at least 7", "n"]


def test_turns_go_round_by_round_and_progress_is_the_share_of_their_expected_time():
    order, seen = [], []
    short, long = (
        BenchTurn("file", expected_s, lambda name=name: order.append(name))
        for name, expected_s in (("short", 1.0), ("long", 3.0))
    )
    listener = Listener(lambda state: seen.append((state.measure, state.done)))
    take_turns([[short, long], [], [short]], listener)
    assert order == ["short", "long", "short"]
    # of five seconds: before and after one, three, one
    first, last = "round 1 of 3", "round 3 of 3"
    assert seen == [(first, 0), (first, 0.2), (first, 0.2), (first, 0.8), (last, 0.8), (last, 1.0)]


def test_six_digits_are_kept_everywhere():
    assert rounded({"a": [1.23456789, (2.0, "x")], "b": 7, "c": None}) == {
        "a": [1.23457, [2.0, "x"]],
        "b": 7,
        "c": None,
    }


def test_too_few_rounds_are_called_a_trial():
    assert trial_note(1) == ["a trial: 1 round, figures need at least 7"]
    assert trial_note(7) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_streams_over_a_prompt_share_its_cells(smollm2: Path):
    app = typer.Typer()
    app.add_typer(bench_app)
    arguments = ["--model", str(smollm2), "--rounds", "1", "--streams", "2,4", "--depths", "32,64"]
    result = runner.invoke(app, ["bench", "parallel", *arguments])
    lines = result.stdout.splitlines()
    record = json.loads(lines[-1])
    assert any("tok/s" in line for line in lines[:-1])
    cells = {(case["depth"], case["streams"]): case["kv_cells"] for case in record["cases"]}
    # prompt + 14 of opening and hint, once; 17 steps of each stream (the last draw is not encoded)
    assert cells == {(d, n): d + 14 + 17 * n for d in (32, 64) for n in (1, 2, 4)}
    assert record["cases"][0]["kv_bytes"] == 63 * 23_040  # 30 layers × 3 heads × 64 × (K and V) × 2 bytes
    assert all(case["latency_ratio"] == 1.0 for case in record["cases"] if case["streams"] == 1)
    assert record["model"]["quantization"] == "Q4_0"
    assert str(smollm2.parent) not in result.stdout


@pytest.mark.model
def test_a_prompt_beyond_the_context_is_refused(smollm2: Path):
    config = ParallelBenchConfig(model=str(smollm2), rounds=1, streams=(1,), depths=(9000,), as_is=True)
    # 8192 less 14 of opening and hint and 18 of steps
    with pytest.raises(ConfigError, match="holds prompts of 8160 tokens at most, got 9000"):
        bench_parallel(config)
