"""`bench compare`: figures from seconds by hand, what is refused, and once for real."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from edgereason.bench.compare import CompareBenchConfig, bench_compare, file_figures
from edgereason.bench.lab import peak_rss_of
from edgereason.cli.bench import bench_app
from edgereason.errors import ConfigError, EngineError
from edgereason.records.measure import Timings


def test_a_files_figures_are_of_its_best_rounds_and_ratios_are_of_seconds_to_the_first():
    prefill = Timings({"a": [2.0, 1.6], "b": [0.8, 3.0]})
    decode = {1: Timings({"a": [0.04, 0.02], "b": [0.01, 0.01]}), 4: Timings({"a": [0.1], "b": [0.2]})}
    figures = file_figures("b", "a", prefill, decode)
    assert figures["prefill_tokens_per_s"] == pytest.approx(512 / 0.8)
    assert figures["prefill_over_first"] == pytest.approx(0.5)
    assert figures["decode_tokens_per_s_n1"] == pytest.approx(100)
    assert figures["decode_n1_over_first"] == pytest.approx(0.5)
    assert figures["decode_tokens_per_s_n4"] == pytest.approx(20)
    assert figures["decode_n4_over_first"] == pytest.approx(2.0)
    assert file_figures("a", "a", prefill, decode)["decode_n1_spread"] == pytest.approx(1.5)


@pytest.mark.parametrize("models", [(), ("a",), ("a", "a")])
def test_fewer_than_two_files_are_nothing_to_compare(models):
    with pytest.raises(ConfigError, match="two different files"):
        CompareBenchConfig(models=models)


def test_files_of_one_name_are_refused(tmp_path, smollm2):
    twin = tmp_path / smollm2.name
    twin.symlink_to(smollm2)
    with pytest.raises(ConfigError, match="told apart"):
        bench_compare(CompareBenchConfig(models=(str(smollm2), str(twin))))


def test_a_file_that_can_not_be_run_says_why(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(EngineError, match=r"broken\.gguf could not be run"):
        peak_rss_of(broken, num_streams=1, threads=1)


@pytest.mark.model
@pytest.mark.slow
def test_two_files_are_measured_in_turns_and_each_ones_memory_apart(tmp_path, smollm2):
    twin = tmp_path / "twin.gguf"
    twin.symlink_to(smollm2)
    done = CliRunner().invoke(
        bench_app, ["compare", str(smollm2), str(twin), "--rounds", "2", "--streams", "1,2", "--json"]
    )
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout.strip().splitlines()[-1])
    one, two = record["files"]
    assert one["model"]["sha256"] == two["model"]["sha256"]
    assert one["decode_n2_over_first"] == 1
    assert 0.5 < two["decode_n1_over_first"] < 2
    assert one["model_bytes"] == smollm2.stat().st_size
    assert one["peak_rss_bytes"] > 0.5 * one["model_bytes"]
    assert str(tmp_path) not in done.stdout
