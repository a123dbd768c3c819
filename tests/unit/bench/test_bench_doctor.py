"""`edgereason doctor`: what suits a machine, by hand; what it shows and refuses; estimates beside `ask`."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_costs import COSTS
from typer.testing import CliRunner

from edgereason.bench import doctor
from edgereason.bench.costs import StepCost, ask
from edgereason.bench.doctor import Checkup, FileFit, Machine, cheap_streams, examine, look, suggest
from edgereason.bench.files import read_per_token_bytes
from edgereason.bench.small_model import SHARE, write_small_model
from edgereason.cli.main import app
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, PullError
from edgereason.hub.catalog import CATALOG, find
from edgereason.hub.store import model_path

MB = 10**6
MACHINE = Machine(
    processor="a processor",
    system="Linux x86_64",
    instructions=("avx2",),
    not_built_in=(),
    cores=2,
    memory_bytes=4000 * MB,
    available_bytes=1200 * MB,
    disk_free_bytes=700 * MB,
    kernels="avx2",
    extras={"train": None},
)


def steps(*seconds: float):
    """Costs whose steps of 1, 4 and 8 streams take so long."""
    think = tuple(
        StepCost(num_streams=n, base_s=s, cell_s=0.0) for n, s in zip((1, 4, 8), seconds, strict=True)
    )
    return replace(COSTS, think=think, chat=replace(think[0]), peak_bytes=500 * MB)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with one model, on which nothing is measured but these costs; gives what was measured."""
    monkeypatch.setattr(doctor, "look", lambda: MACHINE)
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path))
    small = find("smollm2-135m")
    model_path(small).parent.mkdir()
    with model_path(small).open("wb") as file:
        file.truncate(small.size_bytes)
    measured = []

    def measure(path, bundle, options, **_):
        measured.append(options)
        return steps(0.02, 0.03, 0.05)

    monkeypatch.setattr(doctor, "measure", measure)
    return measured


def test_streams_are_cheap_up_to_twice_the_step_of_one():
    assert cheap_streams(steps(0.01, 0.0126, 0.0182)) == 8
    assert cheap_streams(steps(0.01, 0.02, 0.0201)) == 4
    assert cheap_streams(steps(0.01, 0.0236, 0.0484)) == 1


def fit(name: str, size_bytes: int, *, is_base: bool = False, obstacle: str | None = None) -> FileFit:
    return FileFit(
        name=name,
        size_bytes=size_bytes,
        is_here=True,
        is_base=is_base,
        peak_bytes=None,
        disk_bytes=0,
        tokens_per_s=None,
        answer_s=None,
        obstacle=obstacle,
    )


def test_the_bundles_base_is_suggested_before_larger_files_and_the_largest_without_it():
    files = (fit("small", 1), fit("base", 3, is_base=True), fit("large", 9))
    assert suggest(files) == "base"
    assert suggest((files[0], replace(files[1], obstacle="is too slow"), files[2])) == "large"
    assert suggest(tuple(replace(file, obstacle="is too slow") for file in files)) is None


def test_what_is_not_here_is_estimated_from_the_nearest_that_is_and_nothing_is_fetched(machine):
    found = examine()
    assert machine == [("--model", "smollm2-135m")]
    assert (found.model, found.measured) == ("qwen2.5-coder-0.5b-think", "smollm2-135m")
    ratio = find("qwen2.5-coder-0.5b-w4").size_bytes / find("smollm2-135m").size_bytes
    assert found.costs is not None
    assert found.costs.step_s(4, 128) == pytest.approx(0.03 * ratio)
    assert any("is not here" in note for note in found.notes)


def test_each_file_is_judged_by_memory_disk_and_speed(machine):
    files = {file.name: file for file in examine().files}
    small, large = files["smollm2-135m"], files["qwen2.5-coder-1.5b"]
    assert small.obstacle is None
    assert small.tokens_per_s == pytest.approx(50)
    assert small.disk_bytes == 0
    # 500 MB beside 98 of weights, and 1,117 of the larger one's.
    assert large.peak_bytes == 500 * MB + large.size_bytes - small.size_bytes
    assert large.obstacle == "takes 1,519.0 MB of memory, 1,200.0 MB are available"
    # Made from the official file, which is not here either: 352 + 491 MB, and 700 are free.
    assert files["qwen2.5-coder-0.5b-w4"].obstacle == "takes 843.6 MB on disk, 700.0 MB are free"
    # 491 of 98 MB at 50 tokens a second; a tenth of a second is the limit.
    assert files["qwen2.5-coder-0.5b"].tokens_per_s == pytest.approx(50 * 98_362_432 / 491_400_064)
    assert files["qwen2.5-coder-0.5b"].obstacle is None


def test_a_slow_model_does_not_suit(machine, monkeypatch):
    monkeypatch.setattr(doctor, "measure", lambda *_, **__: steps(0.125, 0.2, 0.3))
    small = next(file for file in examine(model="smollm2-135m").files if file.name == "smollm2-135m")
    assert small.obstacle == "makes 8.0 tokens a second, fewer than 10"


def test_without_any_model_a_small_random_one_is_measured_and_removed(machine):
    model_path(find("smollm2-135m")).unlink()
    found = examine()
    ((_, path),) = machine
    assert not Path(path).exists()
    assert found.measured == "a small random model"
    assert found.streams == 4
    assert found.costs is not None
    # The base has six times its layers and vocabulary.
    assert found.costs.step_s(1, 128) == pytest.approx(6 * 0.02, rel=0.05)


def test_a_small_random_model_has_a_sixth_of_the_weights_that_a_step_reads(tmp_path):
    write_small_model(tmp_path / "one.gguf", seed=1)
    write_small_model(tmp_path / "two.gguf", seed=1)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    # So many bytes are read of the default base (benchmarks/compare-…).
    assert SHARE * read_per_token_bytes(tmp_path / "one.gguf") == pytest.approx(346_206_720, rel=0.01)
    with LlamaEngine(tmp_path / "one.gguf", threads=1) as engine, engine.reserve(cells=8, sequences=1):
        sequence = engine.new_sequence()
        assert engine.tokenize("<|im_start|>a b", special=True) == [151_936 // 6 - 1, 64, 220, 65]
        engine.encode(sequence, engine.tokenize("abc"))
        logits = engine.logits(sequence)
        assert 0.3 < logits.std() < 3


@pytest.mark.parametrize(
    ("named", "error", "what"),
    [
        ({"model": "qwen2.5-coder-0.6b"}, PullError, "did you mean"),
        ({"bundle": "missing"}, BundleError, "missing"),
    ],
)
def test_what_is_not_there_is_refused(named, error, what):
    with pytest.raises(error, match=what):
        examine(**named)


def test_the_facts_of_this_machine_are_told_without_a_measurement():
    done = CliRunner().invoke(app, ["doctor", "--facts-only", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    real = look()
    assert told["machine"]["cores"] == real.cores
    assert told["machine"]["kernels"] == real.kernels
    assert 0 < told["machine"]["available_bytes"] <= told["machine"]["memory_bytes"]
    assert (told["costs"], told["examples"]) == (None, [])
    assert [file["name"] for file in told["files"]] == [model.name for model in CATALOG]


def test_people_see_machine_costs_files_and_advice(machine):
    done = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for part in (
        "a processor",
        "1.2 GB available",
        "think, 8 streams",
        "Streams that cost little: 4",
        "note: ",
    ):
        assert part in done.stdout


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_estimates_are_within_a_quarter_of_what_the_command_takes(smollm2):
    """Medians over rounds in turns, so that a disturbance of the machine meets both."""
    options, question = (
        ("--model", str(smollm2)),
        "How many legs do three spiders and two dogs have together?",
    )
    cases = {
        "chat": ["--mode", "chat", "--max-tokens", "192"],
        "think 1": ["--mode", "think", "--budget", "192", "--streams", "1"],
        "think 8": ["--mode", "think", "--budget", "128", "--streams", "8"],
    }
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(3):
        found: Checkup = examine(model=str(smollm2))
        assert found.costs is not None
        for name, given in cases.items():
            asked = ask(options, given, question)
            estimated_s = found.costs.answer_s(asked.prompt_tokens, asked.lengths, thinks=name != "chat")
            ratios[name].append(estimated_s / asked.wall_s)
    assert all(0.75 <= statistics.median(found) <= 1.25 for found in ratios.values()), ratios
