"""`bench switch`: ratios from seconds by hand, lengths that don't fit, and once for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgereason.bench.switch import SwitchBenchConfig, bench_switch, length_entry
from edgereason.cli.bench import bench_app
from edgereason.errors import ConfigError
from edgereason.records.measure import Timings

CASES = ["chat", "think_shared", "chat_with_features", "think_reencoded"]


def test_ratios_are_of_minima_and_medians_stand_beside_them():
    entry = length_entry(
        256,
        Timings(
            {
                "chat": [1.2, 1.0, 3.0],
                "think_shared": [0.1, 0.2, 0.3],
                "chat_with_features": [1.1, 1.05, 9.0],
                "think_reencoded": [2.5, 2.0, 2.4],
            }
        ),
    )
    assert (entry["prompt_tokens"], entry["rounds"]) == (256, 3)
    assert entry["ttft"]["chat"] == {"min_s": 1.0, "median_s": 1.2}
    assert entry["reencoded_over_shared"] == pytest.approx(20)
    assert entry["shared_over_chat"] == pytest.approx(0.1)
    assert entry["features_over_chat"] == pytest.approx(1.05)


def test_long_prompts_have_fewer_rounds_and_never_more_than_asked_for():
    config = SwitchBenchConfig(rounds=7)
    assert [config.rounds_of(length) for length in (64, 2047, 2048, 4096)] == [7, 7, 3, 3]
    assert SwitchBenchConfig(rounds=2).rounds_of(4096) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"lengths": (64, 64)}, "lengths must differ from each other, got 64, 64"),
        ({"lengths": (-4,)}, "each of lengths must be at least 1, got -4"),
    ],
)
def test_a_config_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SwitchBenchConfig(**options)


@pytest.mark.model
def test_lengths_that_no_context_holds_are_refused_before_anything_is_measured(smollm2: Path):
    # 8192 less 14 of opening and hint and one to draw
    with pytest.raises(ConfigError, match="holds prompts of 8177 tokens at most, got 9000"):
        bench_switch(SwitchBenchConfig(model=str(smollm2), rounds=1, lengths=(9000, 10_000)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_length_that_fits_has_every_case(smollm2: Path):
    app = typer.Typer()
    app.add_typer(bench_app)
    arguments = ["--model", str(smollm2), "--rounds", "1", "--lengths", "16,600,9000"]
    result = CliRunner().invoke(app, ["bench", "switch", *arguments])
    lines = result.stdout.splitlines()
    record = json.loads(lines[-1])
    assert [line.split()[1] for line in lines if line.startswith("│")] == ["16", "600"]
    assert [row["prompt_tokens"] for row in record["lengths"]] == [16, 600]
    assert all(sorted(row["ttft"]) == sorted(CASES) for row in record["lengths"])
    assert "prompts of 9000 tokens are left out: the model's context holds 8177" in record["notes"]
    # Loose, for a machine that does other things meanwhile: 614 tokens against 14.
    assert record["lengths"][1]["reencoded_over_shared"] > 3
    assert str(smollm2.parent) not in result.stdout
