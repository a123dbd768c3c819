"""Log-probabilities and entropies of tokens from hidden states, with the logits of a few tokens at a time.

The gradient is found while the logits are at hand: that of a token's own log-probability,

    ∂ log p(id) / ∂h = (head[id] − softmax(head · h / T)ᵀ · head) / T,

does not depend on what becomes of it afterwards. So two products with the head make forward and backward
together, where computing the logits again would take three; what is kept is no larger than the hidden states.

Knows tensors; does not know models, prompts or adapters.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

_CHUNK_TOKENS: Final = 256
"""Tokens whose logits are held at a time, and their exponentials: 156 MB each at 151,936 entries."""


def token_scores(
    hidden: Tensor, head: Tensor, ids: Tensor, *, temperature: float = 1.0, want_entropies: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Scores ids (n,) behind hidden states (n, hidden), in nats and float32.

    Args:
        hidden: final ones, each of the place before its token.
        head: (vocabulary, hidden), frozen: it gets no gradient.
        ids: of the tokens.
        temperature: that logits are divided by.
        want_entropies: of everything that could stand there.

    Returns:
        (n,) log-probabilities; (n,) entropies without gradient, if wanted.
    """
    found = _Scores.apply(hidden, head, ids, temperature, want_entropies)  # type: ignore[no-untyped-call]
    logprobs, entropies = found
    return logprobs, entropies if want_entropies else None


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, ids: Tensor, temperature: float, want_entropies: bool
    ) -> tuple[Tensor, Tensor]:
        wants_gradient = ctx.needs_input_grad[0]
        logprobs = hidden.new_zeros(len(ids), dtype=torch.float32)
        entropies = torch.zeros_like(logprobs)
        slopes = torch.empty_like(hidden) if wants_gradient else None
        for start in range(0, len(ids), _CHUNK_TOKENS):
            part = slice(start, start + _CHUNK_TOKENS)
            chosen = ids[part, None]
            # Passes over 152k numbers a token count beside the product: each is made once, most in place.
            logits = nn.functional.linear(hidden[part].to(head.dtype), head).float()
            if temperature != 1:
                logits /= temperature
            logits -= logits.amax(1, keepdim=True)
            chances = logits.exp()
            total = chances.sum(1)
            logprobs[part] = logits.gather(1, chosen)[:, 0] - total.log()
            if want_entropies:
                entropies[part] = total.log() - torch.linalg.vecdot(chances, logits) / total
            if slopes is not None:
                away = chances.div_(-total[:, None])
                away.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=away.dtype))
                slopes[part] = (away.to(head.dtype) @ head).to(slopes.dtype) / temperature
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        upstream, _ = gradients
        return (upstream[:, None] * slopes).to(slopes.dtype), None, None, None, None
