"""Attention put together from a shared prompt and a row's own tokens, against the dense one."""

from __future__ import annotations

import pytest
import torch

from edgereason.train.lora.forked_attention import Shared, forked_attention

ROWS, HEADS, KV_HEADS, TOKENS, DIM, SCALE = 5, 6, 2, 9, 16, 0.3
OWNER = torch.tensor([0, 2, 0, 1, 2])
PROMPT_TOKENS = (7, 1, 40)


def drawn(dtype):
    """Queries, keys, values, and the prompts' keys and values."""
    random = torch.Generator().manual_seed(0)

    def states(*shape):
        return torch.randn(*shape, dtype=dtype, generator=random)

    own = [states(ROWS, heads, TOKENS, DIM).requires_grad_() for heads in (HEADS, KV_HEADS, KV_HEADS)]
    prompts = [(states(KV_HEADS, n, DIM), states(KV_HEADS, n, DIM)) for n in PROMPT_TOKENS]
    return own, prompts


def shared(prompts):
    return [Shared(*states, (n == OWNER).nonzero()[:, 0]) for n, states in enumerate(prompts)]


def dense(own, prompts):
    """Row by row: each one's prompt copied in front, every head its own key, a mask, a softmax."""
    out = []
    for row, number in enumerate(OWNER):
        query, key, value = (part[row] for part in own)
        keys, values = (
            torch.cat([before, mine], 1).repeat_interleave(HEADS // KV_HEADS, 0)
            for before, mine in zip(prompts[number], (key, value), strict=True)
        )
        seen = torch.ones(TOKENS, keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - TOKENS)
        weights = (query @ keys.transpose(1, 2) * SCALE).masked_fill(~seen, -torch.inf).softmax(-1)
        out.append(weights @ values)
    return torch.stack(out)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.bfloat16, 0.04)])
def test_it_is_dense_attention_in_outputs_and_gradients(dtype, tolerance):
    own, prompts = drawn(dtype)
    got, wanted = forked_attention(*own, shared(prompts), SCALE), dense(own, prompts)
    weight = torch.randn(wanted.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    assert (got - wanted).abs().max() < tolerance
    found, expected = (torch.autograd.grad(out, own, weight) for out in (got, wanted))
    for mine, reference in zip(found, expected, strict=True):
        assert reference.abs().max() > 0.5
        assert (mine - reference).abs().max() < tolerance


def test_a_prompt_that_nothing_attends_to_leaves_a_rows_own_causal_attention():
    # GIVEN keys so far from every query that a prompt's share underflows
    (query, key, value), prompts = drawn(torch.float64)
    far = [(torch.full_like(keys, -1e4), values) for keys, values in prompts]
    query = query.abs().detach()
    # WHEN
    got = forked_attention(query, key, value, shared(far), SCALE)
    # THEN
    alone = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=SCALE, enable_gqa=True
    )
    assert torch.allclose(got, alone, atol=1e-13)


def test_no_gradient_reaches_a_prompt_and_mixed_dtypes_are_the_values():
    (query, key, value), prompts = drawn(torch.float32)
    got = forked_attention(query, key, value.bfloat16(), shared(prompts), SCALE)
    assert got.dtype == torch.bfloat16
    got.sum().backward()
    assert all(part.grad is not None and part.grad.dtype == torch.float32 for part in (query, key, value))
    assert not any(part.requires_grad for states in prompts for part in states)
