"""`edgereason train grpo` on a real model: rollouts on the engine, updates in torch, and a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sums import RECIPE, run, write_questions, write_traces

from edgereason.core.bundle import Bundle

pytestmark = [pytest.mark.model, pytest.mark.slow]

SFT = f"""{RECIPE}learning_rate = 5e-4
[hints]
buckets = [32, 64]
"""
GRPO = """
[base]
name = "smollm2-135m"
[budgets]
buckets = [32, 64]
[training]
steps = 3
prompts = 2
samples = 4
micro_rows = 4
redraws = 2
beta = 0.01
learning_rate = 3e-4
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    (folder / "sft.toml").write_text(SFT)
    traces_file = write_traces(folder / "traces.jsonl", 16)
    done = run("train", "sft", folder / "sft.toml", "--traces", traces_file, "-o", folder / "sft")
    assert done.returncode == 0, done.stderr
    # All traces have 21 to 24 tokens, and 24 is 0.75 · 32: none is told 64.
    assert "no example announces the [hints] buckets [64]" in done.stderr
    assert not [word for word in ("Warning", "warning", "Loading weights", "HF_TOKEN") if word in done.stderr]
    return folder


def test_a_bundle_announces_only_the_budgets_that_its_traces_did(trained: Path) -> None:
    assert json.loads((trained / "sft" / "record.json").read_text())["buckets"] == [32]
    assert Bundle.read(trained / "sft" / "bundle").buckets == (32,)


def test_the_adapter_that_is_drawn_from_is_the_one_that_is_trained(trained: Path) -> None:
    (trained / "grpo.toml").write_text(GRPO)
    done = run(
        *("train", "grpo", trained / "grpo.toml", "--from", trained / "sft", "-o", trained / "grpo"),
        *("--questions", write_questions(trained / "questions.jsonl", 8), "--json"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["steps"], record["num_problems"]) == (3, 8)
    updates = [json.loads(line) for line in (trained / "grpo" / "metrics.jsonl").read_text().splitlines()]
    # Nothing is learned where all are worth the same.
    learned = [update for update in updates if update["mismatch"] is not None]
    # The policy moves away from where it began …
    assert learned[-1]["kl"] > 1e-3
    # … and still the engine says of what it drew what torch says, up to Q4_0's rounded activations.
    assert all(0 < update["mismatch"] < 0.15 for update in learned)
    bundle = Bundle.read(trained / "grpo" / "bundle")
    assert bundle.buckets == (32, 64)
    asked = run("ask", "What is 3 + 2?", "--bundle", trained / "grpo" / "bundle", "--budget", "40", "--json")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["route"] == "think"


def test_rollouts_are_timed_against_transformers_on_the_same_adapter(trained: Path) -> None:
    done = run(
        *(
            "bench",
            "train",
            "--only",
            "rollouts",
            "--model",
            "smollm2-135m",
            "--from",
            trained / "sft" / "bundle",
        ),
        *("--rounds", "1", "--samples", "2", "--cap-tokens", "40", "--json"),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["format"] == "edgereason-bench-train"
    parts = record["rollout_speedup_of_full_batches"] * record["rollout_speedup_of_utilisation"]
    assert record["rollout_speedup"] == pytest.approx(parts, rel=0.01)
    assert 1 <= record["rollouts"]["mean_tokens"] <= 41
    assert record["config"]["from"] == "bundle"
    assert "masked_speedup" not in record
