"""`edgereason make` from a folder of safetensors to a bundle that answers, and what it says of its origin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgereason.core.bundle import Bundle
from tests.unit.tiny_checkpoint import write_tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.torch, pytest.mark.timeout(3600)]

RECIPE = """
name = "tiny-sums"
model = "{model}"
[quantize]
name = "tiny-w4"
[quantize.storage]
head = "q8_0"
[quantize.transforms]
residual = false
keys = false
values = false
up = false
[data.sums]
generate = "worked-sums:6:3"
[traces.sums]
data = "sums"
format = "worked"
[sft]
traces = ["sums"]
[sft.hints]
buckets = [64]
[sft.training]
batch_rows = 2
micro_rows = 2
"""


def run(cache: Path, *arguments: str) -> str:
    """A command's output, with an empty cache."""
    environment = {**os.environ, "EDGEREASON_CACHE": str(cache)}
    command = [sys.executable, "-m", "edgereason", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_safetensors_become_a_bundle_that_answers(architecture: str, tmp_path: Path) -> None:
    # GIVEN
    folder = write_tiny_checkpoint(tmp_path / "my-model", architecture=architecture)
    recipe, cache, out = tmp_path / "recipe.toml", tmp_path / "cache", tmp_path / "out"
    recipe.write_text(RECIPE.format(model=folder))
    # WHEN
    run(cache, "make", str(recipe), "-o", str(out))
    # THEN
    made = Bundle.read(out / "tiny-sums")
    assert made.provenance["checkpoint"].keys() == {"sha256", "name"}
    assert made.provenance["checkpoint"]["name"] == "my-model"
    assert made.provenance["base"]["teacher"]["checkpoint"] == made.provenance["checkpoint"]
    verified = run(cache, "bundle", "verify", str(made.folder))
    assert all(line.startswith("ok ") for line in verified.splitlines()), verified
    for mode in ("think", "chat"):
        ask = ("ask", "What is 2+2?", "--bundle", str(made.folder), "--mode", mode, "--json")
        answer: dict[str, Any] = json.loads(run(cache, *ask, "--budget", "80", "--max-tokens", "60"))
        assert answer["route"] == mode
        assert answer["usage"]["answer_tokens"] > 0
    # The adapter and its base name the checkpoint, too.
    run(
        cache,
        "export",
        "peft",
        str(made.folder),
        "-o",
        str(tmp_path / "peft"),
        "--hub-base",
        "maker/My-Model",
    )
    run(cache, "export", "gguf", str(made.folder), "-o", str(tmp_path / "server"))
    sha256 = made.provenance["checkpoint"]["sha256"]
    assert all(sha256 in (tmp_path / name / "README.md").read_text() for name in ("peft", "server"))
