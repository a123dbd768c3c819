"""A random two-layer model of Qwen2's family with a LoRA whose B is not zero."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

OPENING = (60, 61)
"""Ids that occur nowhere else."""
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(seed=0, vocab_size=64):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    model = Qwen2ForCausalLM(config).requires_grad_(False)
    for parameter in model.parameters():  # weights of a size that makes every piece matter
        if parameter.ndim == 2:
            parameter.normal_(std=1.5 * parameter.shape[1] ** -0.5)
    return model


def lora_model(seed=0, *, invocation=None, dropout=0.0, rank=4):
    """With `invocation`, PEFT's own activated LoRA; the same weights either way."""
    model = get_peft_model(
        base_model(seed),
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=dropout,
            target_modules=LINEARS,
            task_type="CAUSAL_LM",
            alora_invocation_tokens=list(invocation) if invocation else None,
        ),
    )
    torch.manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.2)
    return model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def random_rows(seed=0, *, prompts=(5, 9, 9), responses=(12, 7, 20)):
    """(prompt, response, trained): responses begin with the opening, which is not trained."""
    random = torch.Generator().manual_seed(seed)

    def ids(count):
        return tuple(torch.randint(60, (count,), generator=random).tolist())

    return [
        (ids(p), OPENING + ids(r), (False,) * len(OPENING) + (True,) * r)
        for p, r in zip(prompts, responses, strict=True)
    ]
