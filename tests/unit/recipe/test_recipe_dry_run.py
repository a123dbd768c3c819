"""What a training would take: counted against the paper's table, a real model, and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from edgereason.errors import ConfigError
from edgereason.recipe.dry_run import Assumed, Shape, dry_grpo, dry_quantize, dry_sft
from edgereason.train.grpo.recipe import GrpoRecipe
from edgereason.train.lora.adapters import LoraSettings, new_adapter
from edgereason.train.lora.run import SftRecipe
from edgereason.train.quant.run import Recipe

CONFIGS = Path(__file__).parents[3] / "configs"
SEVEN = Shape.read(CONFIGS / "shapes" / "qwen2.5-7b-instruct.json")
THREE = Shape(
    num_layers=36, hidden_size=2048, num_heads=16, num_kv_heads=2, head_dim=128,
    ff_size=11008, vocab_size=151936,
)  # fmt: skip
NODE = Assumed(devices=8, device_gb=80, host_gb=2000, disk_gb=4000, prompt_tokens=200)


@pytest.mark.parametrize(
    ("shape", "is_tied", "shares"),
    [(THREE, True, (1.94, 3.88, 7.76, 15.52)), (SEVEN, False, (1.06, 2.12, 4.24, 8.48))],
)
def test_adapters_have_the_share_of_parameters_that_the_papers_table_says(shape, is_tied, shares):
    total = shape.weights - (shape.vocab_size * shape.hidden_size if is_tied else 0)
    for rank, share in zip((32, 64, 128, 256), shares, strict=True):
        found = shape.adapter_weights(LoraSettings(rank=rank))
        assert 100 * found / total == pytest.approx(share, rel=4e-3)


def test_weights_are_those_of_torchs_own_model(tmp_path):
    config = Qwen2Config(
        num_hidden_layers=3, hidden_size=24, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, vocab_size=50, tie_word_embeddings=False,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    shape = Shape.read(tmp_path)
    model = Qwen2ForCausalLM(config)
    assert shape.weights == sum(one.numel() for one in model.parameters() if one.dim() == 2)
    lora = LoraSettings(rank=4, targets=("q_proj", "down_proj"))
    adapted = new_adapter(model.requires_grad_(False), lora, 0)
    assert shape.adapter_weights(lora) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_the_papers_sft_fits_a_device_and_its_parts_are_those_of_arithmetic(tmp_path):
    recipe = SftRecipe.read(CONFIGS / "sft-qwen2.5-7b-paper.toml")
    assumed = replace(NODE, rows=1000, response_tokens=9000.0, tokens_per_s=500.0)
    plan = dry_sft(recipe, SEVEN, assumed, tmp_path / "new")
    # 28 layers of 11,534,336 at rank 128: 128 × (2·7168 + 2·4096 + 3·22528).
    assert plan.amounts["adapter parameters"] == 28 * 128 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert plan.device["base"] == 2 * SEVEN.weights
    assert plan.device["optimizer"] == 8 * 322_961_408
    assert plan.amounts["updates"] == 5 * 16  # 1,000 rows are 15.6 batches of 64
    assert plan.seconds == 5 * 1000 * 9000 / (500 * 8)
    assert plan.fits, plan.problems
    assert not (tmp_path / "new").exists()


def test_examples_take_4_bytes_a_token_on_disk_and_nothing_in_memory(tmp_path):
    recipe = SftRecipe.read(CONFIGS / "sft-qwen2.5-7b-paper.toml")
    few, many = (
        dry_sft(recipe, SEVEN, replace(NODE, rows=rows, response_tokens=9000.0), tmp_path)
        for rows in (1000, 1_200_000)
    )
    assert many.disk["examples"] == 4 * 1_200_000 * (9000 + NODE.prompt_tokens)
    assert many.host == few.host


def test_what_does_not_fit_is_named_with_what_most_of_it_is_for(tmp_path):
    recipe = SftRecipe.read(CONFIGS / "sft-qwen2.5-7b-paper.toml")
    whole = replace(recipe, training=replace(recipe.training, checkpoint_activations=False))
    (problem,) = dry_sft(whole, SEVEN, NODE, tmp_path).problems
    assert problem.startswith("a device needs")
    assert "for activations, and has 80.0 GB" in problem
    late = replace(NODE, rows=1000, response_tokens=9000.0, tokens_per_s=1.0, hours=24.0)
    assert dry_sft(recipe, SEVEN, late, tmp_path).problems == ["it takes 1,562 h, and 24 h are given"]
    assert "disk needs" in dry_sft(recipe, SEVEN, replace(NODE, disk_gb=1.0), tmp_path).problems[0]


def test_the_pace_of_updates_that_were_made_counts_before_arithmetic(tmp_path):
    lines = [{"step": n, "seconds": seconds} for n, seconds in enumerate((4.0, 90.0, 2.0), 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = SftRecipe.read(CONFIGS / "sft-qwen2.5-7b-paper.toml")
    assumed = replace(NODE, rows=640, response_tokens=100.0, tflops=300.0)
    plan = dry_sft(recipe, SEVEN, assumed, tmp_path)
    assert (plan.seconds, plan.amounts["updates"]) == (50 * 4.0, 50)
    assert "measured in 3 updates" in plan.pace
    assert dry_sft(recipe, SEVEN, replace(assumed, tokens_per_s=1e3), tmp_path).seconds == 5 * 640 * 100 / 8e3
    assert (
        dry_sft(recipe, SEVEN, replace(NODE, rows=640, response_tokens=1.0), tmp_path / "new").seconds is None
    )


def test_rows_and_lengths_come_from_the_traces(tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps({"num_tokens": count}) + "\n" for count in (100, 300, None)))
    found = NODE.with_traces([path])
    assert (found.rows, found.response_tokens) == (3, 200)
    assert replace(NODE, rows=7).with_traces([path]).rows == 7


def test_the_papers_grpo_and_quantizing_end_in_a_verdict(tmp_path):
    recipe = GrpoRecipe.read(CONFIGS / "grpo-qwen2.5-7b-paper.toml")
    assumed = replace(NODE, rank=128, response_tokens=2500.0, tflops=300.0)
    plan = dry_grpo(recipe, tmp_path / "no", SEVEN, assumed, tmp_path)
    assert plan.amounts["responses"] == 200 * 256  # the paper's 200 steps of 256
    assert (plan.fits, plan.seconds) == (True, None)
    assert "rollout_tokens_per_s" in plan.pace
    drawn = dry_grpo(recipe, tmp_path / "no", SEVEN, replace(assumed, rollout_tokens_per_s=1e3), tmp_path)
    assert drawn.amounts["hours of drawing"] == pytest.approx(200 * 256 * 2500 / 8e3 / 3600)
    with pytest.raises(ConfigError, match="rank=128"):
        dry_grpo(recipe, tmp_path / "no", SEVEN, NODE, tmp_path)
    slow = dry_quantize(
        Recipe.read(CONFIGS / "quantize-qwen2.5-7b-paper.toml"),
        SEVEN,
        replace(NODE, tflops=2.0, hours=24.0),
        tmp_path,
    )
    assert slow.amounts["tokens"] == 1000 * 16 * 2048
    assert "24 h are given" in slow.problems[0]
    assert "on the CPU" in slow.notes[0]


@pytest.mark.parametrize(
    "given", ["device=8", "devices=0", "devices=many", "devices", "tflops=inf", "rows=-1"]
)
def test_an_assumption_that_is_none_is_refused_by_its_name(given):
    with pytest.raises(ConfigError, match="--assume"):
        Assumed.parse([given])


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"num_hidden_layers": 2, "hidden_size": 0}'])
def test_a_file_without_a_shape_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="shape of a decoder"):
        Shape.read(tmp_path)


def test_this_machine_counts_where_no_device_is_given(tmp_path):
    recipe = SftRecipe.read(CONFIGS / "sft-qwen2.5-7b-paper.toml")
    plan = dry_sft(recipe, SEVEN, Assumed(host_gb=24, disk_gb=100), tmp_path)
    assert "masks" not in plan.device  # a CPU's attention needs none
    assert "has 24.0 GB" in plan.problems[0]
    assert torch.cuda.is_available() or "CPU" in plan.what
