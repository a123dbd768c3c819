"""`edgereason quantize` on a real model: a base that answers, a record, bad input that changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from edgereason.cli.main import main
from edgereason.core.bundle import file_sha256
from edgereason.engine.llama import LlamaEngine

pytestmark = pytest.mark.model

PLAIN = """
[base]
name = "smollm2-w4"
{more}
[storage]
ranges = "min-max"
[transforms]
residual = false
keys = false
values = false
up = false
"""
TRAINED = """
[base]
name = "smollm2-w4"
[transforms]
keys = false
[corrections]
rank = 1
[local]
steps = 2
layers = 1
[end_to_end]
steps = {steps}
windows = 1
window_tokens = 32
"""


def run(recipe: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgereason", "quantize", "smollm2-135m"]
    return subprocess.run(
        [*command, "--recipe", recipe, "-o", folder, *more],
        capture_output=True,
        text=True,
    )


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


@pytest.fixture
def refusal(tmp_path, smollm2, capsys, monkeypatch):
    """What `edgereason quantize` says when it refuses a recipe; in this process, to import torch once."""

    def run_here(text: str) -> list[str]:
        path = recipe(tmp_path, text)
        arguments = ["quantize", "smollm2-135m", "--recipe", str(path), "-o", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["edgereason", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err.splitlines()

    return run_here


def test_a_rule_alone_makes_a_base_that_the_engine_runs(tmp_path, smollm2):
    done = run(recipe(tmp_path, PLAIN.format(more="")), tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    base = tmp_path / "out" / "base.gguf"
    assert record == json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["base"]["sha256"] == file_sha256(base)
    assert record["teacher"]["sha256"] == file_sha256(smollm2)
    assert str(tmp_path) not in done.stdout
    with LlamaEngine(base) as engine, LlamaEngine(smollm2) as teacher:
        assert engine.vocab_sha256() == teacher.vocab_sha256()
        assert engine.info.chat_template == teacher.info.chat_template
        ids = engine.tokenize("The capital of France is Paris. The capital of Italy is Rome.")
        with engine.reserve(cells=len(ids), sequences=1):
            sequence = engine.new_sequence()
            engine.encode(sequence, ids[:1])
            (scored,) = engine.score([(sequence, ids[1:])])
        # A broken merge gives the logarithm of one in 49,152: −10.8.
        assert sum(scored.logprobs) / len(scored.logprobs) > -4


@pytest.mark.slow
def test_training_goes_from_recipe_to_base_and_its_learned_file_makes_it_again(tmp_path, smollm2):
    from edgereason.quant.apply import apply
    from edgereason.quant.learned import Learned

    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a bakery that sold forty rolls a day. " * 40)
    done = run(recipe(tmp_path, TRAINED.format(steps=3)), tmp_path / "out", "--text", str(text), "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["text"] == [{"name": "text.txt", "sha256": file_sha256(text)}]
    assert 0 < record["jsd_after"] < 0.5
    progress = [json.loads(line) for line in (tmp_path / "out" / "progress.jsonl").read_text().splitlines()]
    assert [row["step"] for row in progress if "loss" in row] == [1, 2, 3]
    assert not list((tmp_path / "out").glob("checkpoint*"))
    apply(smollm2, Learned.read(tmp_path / "out" / "learned.gguf"), tmp_path / "again.gguf")
    assert file_sha256(tmp_path / "again.gguf") == record["base"]["sha256"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PLAIN.format(more='teacher_sha256 = "00"'), "the recipe is for 00"),
        (TRAINED.format(steps=3), "the calibration text has 0 tokens"),
        (PLAIN.format(more="") + "[qualms]\n", "unknown table [qualms]"),
        (PLAIN.format(more="") + "[corrections]\nrnak = 2\n", "did you mean 'rank'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, refusal, text, says):
    (line,) = refusal(text)
    assert says in line
    assert not (tmp_path / "out").exists()


def test_without_text_a_training_is_refused_before_the_model_is_looked_for(tmp_path, monkeypatch, capsys):
    path = recipe(tmp_path, TRAINED.format(steps=2))
    monkeypatch.setattr("edgereason.hub.pull.resolve", lambda *_a, **_k: pytest.fail("looked for a model"))
    command = ["edgereason", "quantize", "smollm2-135m", "--recipe", str(path), "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "the calibration text has 0 tokens, and 2 steps of 1 × 32 tokens need 192: give more (--text)" in line
    )
    assert not (tmp_path / "out").exists()


def test_another_teacher_is_refused_in_a_folder_that_has_nothing_but_its_recipe(tmp_path, refusal):
    from edgereason.train.quant.run import Recipe

    found = PLAIN.format(more=f'teacher_sha256 = "{"ab" * 32}"')
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "recipe.toml"
    path.write_text(tomli_w.dumps(Recipe.read(recipe(tmp_path, found)).to_tables()))
    (line,) = refusal(PLAIN.format(more=""))
    assert f"base.teacher_sha256: '{'ab' * 32}' there, 'b179c9523d" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["recipe.toml"]


def test_a_folder_of_another_recipe_is_refused(tmp_path, refusal):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.toml").write_text("[base]\nname = 'other'\n")
    (line,) = refusal(PLAIN.format(more=""))
    assert "holds another quantization" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["recipe.toml"]
