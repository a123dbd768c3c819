"""The two steps of the bench learn from the same tokens."""

from __future__ import annotations

import torch
from tiny_lora import base_model

from edgereason.bench.train import StepShape, both_steps
from edgereason.train.lora.adapters import LoraSettings


def gradients(base, seen):
    return {name: seen(p.grad) for name, p in base.named_parameters() if p.grad is not None}


def test_both_ways_learn_from_the_same_tokens():
    # With B zero no prompt is changed by the adapter, so only the prompt's share of B's gradient differs.
    shape = StepShape(prompt_tokens=1, responses=3, response_tokens=8)
    base = base_model(vocab_size=1000)
    ways, found = both_steps(base, shape, LoraSettings(rank=4)), {}
    for name, step in ways.items():
        step()
        found[name] = gradients(base, torch.clone)
    assert found["masked"].keys() == found["plain"].keys()
    name = "model.layers.1.mlp.down_proj.lora_B.default.weight"
    masked, plain = (found[way][name] for way in ("masked", "plain"))
    assert torch.allclose(masked, plain, atol=1e-6)  # the last layer's: nothing of the prompt goes through it
    name = "model.layers.0.self_attn.v_proj.lora_B.default.weight"
    masked, plain = (found[way][name] for way in ("masked", "plain"))
    assert not torch.allclose(masked, plain, atol=1e-4)  # the prompt's values are read by all
