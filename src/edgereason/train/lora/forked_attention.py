"""Attention of many responses over prompts that they share, each prompt's keys and values held once.

::

    queries of the responses ─┬─ their own keys, causal ─→ out₁, lse₁ ─┐
                              └─ their prompt's keys ────→ out₂, lse₂ ─┴→ Σ outᵢ · exp(lseᵢ − lse)

The softmax over both is put together from its two parts exactly, by their log-sum-exps; and the flash
backward pass of either part, given the whole's output and log-sum-exp, is that part's share of the whole's
gradient. So no prompt is copied for each response, nor a key head for each of its query heads, and nothing
is masked.

For a CPU, whose flash kernel takes grouped heads and gives the log-sum-exp away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class Shared(NamedTuple):
    """A prompt's keys and values (KV heads, tokens, head_dim), and the rows (n,) that have it."""

    keys: Tensor
    values: Tensor
    rows: Tensor


def forked_attention(
    query: Tensor, key: Tensor, value: Tensor, prompts: Sequence[Shared], scale: float
) -> Tensor:
    """(rows, heads, tokens, head_dim) attention of each row over its prompt and, causally, over itself.

    Gradients reach `query`, `key` and `value`; prompts are constants.

    Args:
        query: (rows, heads, tokens, head_dim); padding on the right harms nobody.
        key: (rows, KV heads, tokens, head_dim), as `value`.
        prompts: one at least of every row.
        scale: of the products.
    """
    # Under autocast values come as bfloat16, while rotated queries and keys are float32 again.
    dtype = value.dtype
    alike = [Shared(keys.to(dtype), values.to(dtype), rows) for keys, values, rows in prompts]
    out: Tensor = _Forked.apply(query.to(dtype), key.to(dtype), value, alike, scale)  # type: ignore[no-untyped-call]
    return out


class _Forked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prompts: Sequence[Shared], scale: float
    ) -> Tensor:
        out: Tensor
        own, own_lse = _forward(query, key, value, 0.0, True, scale=scale)
        of_prompt, prompt_lse = torch.empty_like(own), torch.empty_like(own_lse)
        for keys, values, rows in prompts:
            part, part_lse = _forward(_folded(query[rows], len(keys)), keys[None], values[None], scale=scale)
            of_prompt[rows] = _unfolded(part, query[rows])
            prompt_lse[rows] = _unfolded(part_lse[..., None], query[rows])[..., 0]
        lse = torch.logaddexp(own_lse, prompt_lse)
        out = own * (own_lse - lse).exp()[..., None] + of_prompt * (prompt_lse - lse).exp()[..., None]
        out = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.prompts, ctx.scale = prompts, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        (grad,) = grads
        for_query, for_key, for_value = _backward(
            grad, query, key, value, out, lse, 0.0, True, scale=ctx.scale
        )
        for keys, values, rows in ctx.prompts:
            folded = (_folded(part[rows], len(keys)) for part in (query, out, lse[..., None]))
            query_part, out_part, lse_part = folded
            grad_part = _folded(grad[rows], len(keys))
            more, _, _ = _backward(
                grad_part, query_part, keys[None], values[None], out_part, lse_part[..., 0], 0.0, False,
                scale=ctx.scale,
            )  # fmt: skip
            for_query[rows] += _unfolded(more, query[rows])
        return for_query, for_key, for_value, None, None


def _folded(states: Tensor, kv_heads: int) -> Tensor:
    """(rows, heads, tokens, d) → (1, KV heads, rows × heads of a group × tokens, d)."""
    rows, heads, tokens, d = states.shape
    grouped = states.reshape(rows, kv_heads, heads // kv_heads, tokens, d)
    folded: Tensor = grouped.transpose(0, 1).reshape(1, kv_heads, -1, d)
    return folded


def _unfolded(states: Tensor, like: Tensor) -> Tensor:
    """The way back, to the shape of `like` except for d."""
    rows, heads, tokens, _ = like.shape
    _, kv_heads, _, d = states.shape
    grouped = states.reshape(kv_heads, rows, heads // kv_heads, tokens, d)
    unfolded: Tensor = grouped.transpose(0, 1).reshape(rows, heads, tokens, d)
    return unfolded
