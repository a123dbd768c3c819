"""What masking saves: one training step over responses that share a prompt, in both ways.

::

    masked   prompt once, no gradient      │ G responses, forward and backward
    plain    (prompt + response) × G, forward and backward, the adapter on everywhere

Both learn from the same tokens; the plain way is what a trainer does that knows of no mask. It takes its
rows one by one, so that neither needs more memory than a machine has.

Knows models and ids; does not know clocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from edgereason.errors import ConfigError
from edgereason.train.lora.adapters import LoraSettings, new_adapter
from edgereason.train.lora.masked_lora import Batch, MaskedLora
from edgereason.train.lora.token_scores import token_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """A step: `responses` of `response_tokens` each behind one prompt of `prompt_tokens`."""

    prompt_tokens: int = 1000
    responses: int = 8
    response_tokens: int = 100

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.responses) < 1 or self.response_tokens < 2:
            raise ConfigError("a step needs a prompt, responses, and 2 tokens of each at least")

    @property
    def trained_tokens(self) -> int:
        """Response tokens of a step."""
        return self.responses * self.response_tokens


def steps(
    base: PreTrainedModel, shape: StepShape, lora: LoraSettings, *, seed: int = 0
) -> dict[str, Callable[[], None]]:
    """The two steps, by name: each leaves its gradients in the adapter, and nothing else."""
    model = new_adapter(base, lora, seed)
    model.train()
    random = torch.Generator().manual_seed(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1000, (count,), generator=random).tolist())

    prompt = ids(shape.prompt_tokens)
    trained = (False,) + (True,) * (shape.response_tokens - 1)
    rows = [(prompt, ids(shape.response_tokens), trained) for _ in range(shape.responses)]
    masked_lora = MaskedLora(model)

    def masked() -> None:
        model.zero_grad()
        (-masked_lora(Batch.of(rows)).sum() / shape.trained_tokens).backward()

    def plain() -> None:
        model.zero_grad()
        for _, response, _ in rows:
            whole = torch.tensor([prompt + response])
            hidden = model.get_base_model().model(input_ids=whole, use_cache=False).last_hidden_state[0]
            behind = whole[0, len(prompt) + 1 :]
            found, _ = token_scores(hidden[len(prompt) : -1], masked_lora.head, behind)
            (-found.sum() / shape.trained_tokens).backward()  # type: ignore[no-untyped-call]

    return {"masked": masked, "plain": plain}
