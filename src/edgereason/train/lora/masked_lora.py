"""Masked LoRA: the adapter is off on the prompt and on behind it, at the cost of the response alone.

::

    prompt ─ base alone, no gradient, once ─→ keys and values (read only)
                                                   │ G responses share them
    opening … end of turn ─ adapter on ────────────┴─→ hidden states ─ head ─→ log-probabilities

No gradient can reach the prompt, since nothing that is trained has touched it: leaving it out of the backward
pass changes no gradient, and its keys and values serve every response, epoch and process that has the prompt.

Source: paper section 4 (masked LoRA). Deviation: none in what is computed; the paper doesn't say how.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from edgereason.errors import TrainingError
from edgereason.train.lora.forked_attention import Shared, forked_attention
from edgereason.train.quant.load import cache_argument

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


_FORKED: Final = "edgereason_forked"
"""Name of our attention among those of transformers."""

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class ResponseBatch:
    """Responses, and the prompts that they share.

    Attributes:
        prompts: distinct ones, none of them empty; or a single empty one, and the adapter is on from the
            first token, as a plain LoRA is: the reference for what masking costs.
        owner: (rows,) which prompt each response has.
        ids: (rows, tokens) responses from the opening on, padded on the right.
        trained: (rows, tokens) whose log-probabilities are wanted; the first token's is not to be had, since
            its logits are the base's own.
    """

    prompts: tuple[tuple[int, ...], ...]
    owner: Tensor
    ids: Tensor
    trained: Tensor

    @classmethod
    def of(cls, rows: Sequence[tuple[Ids, Ids, Sequence[bool]]]) -> ResponseBatch:
        """Collates (prompt, response, trained) rows."""
        numbers: dict[tuple[int, ...], int] = {}
        owner = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt, _, _ in rows]
        longest = max(len(response) for _, response, _ in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        trained = torch.zeros(len(rows), longest, dtype=torch.bool)
        for n, (_, response, wanted) in enumerate(rows):
            ids[n, : len(response)] = torch.tensor(response)
            trained[n, 1 : len(response)] = torch.tensor(wanted[1:], dtype=torch.bool)
        return cls(tuple(numbers), torch.tensor(owner), ids, trained)

    def to(self, device: torch.device) -> ResponseBatch:
        """The same, its tensors on a device."""
        return ResponseBatch(
            self.prompts, self.owner.to(device), self.ids.to(device), self.trained.to(device)
        )


class MaskedLora(nn.Module):
    """A model with a plain LoRA whose prompts belong to the base.

    Attributes:
        decoder: the layers without the head.
        cache_argument: what its forward calls keys and values.

    Args:
        model: PEFT's; the key that makes an aLoRA of it is not set, or PEFT would scan for the invocation.
        cached_bytes: most that prompts' keys and values may take between batches.

    Raises:
        TrainingError: the model's attention is not torch's own.
    """

    def __init__(self, model: PeftModel, *, cached_bytes: int = 0) -> None:
        super().__init__()
        self.model = model
        self.decoder: nn.Module = model.get_base_model().model
        self.cache_argument = cache_argument(self.decoder)
        self._prompts: OrderedDict[tuple[int, ...], EncodedPrompt] = OrderedDict()
        self._free_bytes = cached_bytes
        config = model.get_base_model().config
        if config._attn_implementation not in ("sdpa", _FORKED):
            raise TrainingError(
                f"the model's attention is {config._attn_implementation}; expected sdpa, which takes masks "
                "of any shape: load it with attn_implementation='sdpa'"
            )
        config._attn_implementation = _FORKED  # torch's own wherever there is no prefix
        has_window = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        self._window: int | None = config.sliding_window if has_window else None
        for module in self.decoder.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module._can_checkpoint_with_cache = True  # ours is only read

    @property
    def head(self) -> Tensor:
        """(vocabulary, hidden)."""
        weight: Tensor = self.model.get_base_model().get_output_embeddings().weight
        return weight

    def forward(self, batch: ResponseBatch) -> Tensor:
        """(rows, tokens) natural log-probabilities where `trained`, 0 elsewhere."""
        return self.scores(batch)[0]

    def scores(
        self, batch: ResponseBatch, *, temperature: float = 1.0, want_entropies: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities as `forward`, of logits over `temperature`; and entropies in nats, if wanted."""
        batch = batch.to(self.head.device)
        hidden, wanted = self.hidden(batch), batch.trained
        # A token's logits lie one before it.
        before = torch.cat([wanted[:, 1:], torch.zeros_like(wanted[:, :1])], 1)
        logprobs, entropies = token_scores(
            hidden[before],
            self.head,
            batch.ids[wanted],
            temperature=temperature,
            want_entropies=want_entropies,
        )

        def placed(values: Tensor) -> Tensor:
            return values.new_zeros(wanted.shape).masked_scatter(wanted, values)

        return placed(logprobs), None if entropies is None else placed(entropies)

    def hidden(self, batch: ResponseBatch) -> Tensor:
        """(rows, tokens, hidden) final hidden states of the responses.

        Raises:
            TrainingError: an empty prompt beside others.
        """
        if batch.prompts == ((),):
            return self._states(input_ids=batch.ids, attention_mask=None)
        if () in batch.prompts:
            raise TrainingError("an empty prompt beside others: all rows of a batch are masked, or none")
        # Only a CPU's kernel gives what is needed; a window that not all is within needs a mask after all.
        num_tokens = max(map(len, batch.prompts)) + batch.ids.shape[1]
        is_forked = batch.ids.device.type == "cpu" and (self._window is None or num_tokens <= self._window)
        prefix = PrefixCache(
            [self.encoded(prompt) for prompt in batch.prompts], batch.owner, forked=is_forked
        )
        tokens = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        return self._states(
            input_ids=batch.ids,
            attention_mask=None if is_forked else self._masks(prefix, len(tokens)),
            position_ids=prefix.lengths[:, None] + tokens,
            prefix=prefix if is_forked else None,
            **{self.cache_argument: prefix},
        )

    def _masks(self, prefix: PrefixCache, num_tokens: int) -> Tensor | dict[str, Tensor]:
        """The mask of all layers, or those of layers without and with a window."""
        mask = prefix.mask(num_tokens)
        if self._window is None:
            return mask
        return {"full_attention": mask, "sliding_attention": prefix.mask(num_tokens, self._window)}

    def _states(self, **inputs: Any) -> Tensor:
        """(rows, tokens, hidden) final hidden states."""
        states: Tensor = self.decoder(use_cache=False, **inputs).last_hidden_state
        return states

    def encoded(self, ids: tuple[int, ...]) -> EncodedPrompt:
        """A prompt's keys and values, by the base alone."""
        if ids in self._prompts:
            self._prompts.move_to_end(ids)
            return self._prompts[ids]
        prompt = self._prompts[ids] = self._encode(ids)
        self._free_bytes -= prompt.num_bytes
        while self._free_bytes < 0:
            _, longest_unused = self._prompts.popitem(last=False)
            self._free_bytes += longest_unused.num_bytes
        return prompt

    @torch.no_grad()
    def _encode(self, ids: tuple[int, ...]) -> EncodedPrompt:
        cache = DynamicCache()
        at = torch.tensor([ids], device=self.head.device)
        training = self.decoder.training
        self.decoder.eval()  # gradient checkpointing, which only training has, would drop the cache
        try:
            with adapter_off(self.model):
                self.decoder(input_ids=at, use_cache=True, **{self.cache_argument: cache})
        finally:
            self.decoder.train(training)
        return EncodedPrompt([(layer.keys[0], layer.values[0]) for layer in cache.layers])


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The base alone.

    PEFT's own switch sets `requires_grad` at each call, which confuses optimizers and wrappers.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


class PrefixCache(Cache):  # type: ignore[misc]
    """Prompts' keys and values in front of responses'; read only, so that a layer may be computed twice.

    Forked, they stay apart, for an attention that takes them from `shared`; else each row gets its own copy
    in front of its own keys, and a mask that keeps out what is not its prompt.

    Attributes:
        lengths: (rows,) tokens of each row's prompt.
    """

    def __init__(self, prompts: Sequence[EncodedPrompt], owner: Tensor, *, forked: bool) -> None:
        super().__init__(layers=[])
        lengths = torch.tensor([prompt.num_tokens for prompt in prompts], device=owner.device)
        self.lengths = lengths[owner]
        self._longest = max(prompt.num_tokens for prompt in prompts)
        self._prompts = prompts
        self._owner = owner
        self._rows = [(owner == number).nonzero()[:, 0] for number in range(len(prompts))]
        self._forked = forked

    def mask(self, num_tokens: int, window: int | None = None) -> Tensor:
        """(rows, 1, tokens, longest prompt + tokens) what each response token sees: at most `window` back.

        Padding lies behind every token of its row, so that causality alone keeps it out.
        """
        tokens = torch.arange(num_tokens, device=self.lengths.device)
        causal = (tokens[None] <= tokens[:, None])[None].expand(len(self.lengths), -1, -1)
        places = torch.arange(self._longest, device=self.lengths.device)
        present = places >= self._longest - self.lengths[:, None]
        prompt = present[:, None].expand(-1, num_tokens, -1)
        if window is not None:
            causal = causal & (tokens[:, None] - tokens[None] < window)
            prompt = prompt & (tokens[:, None] + self._longest - places[None] < window)
        return torch.cat([prompt, causal], 2)[:, None]

    def shared(self, layer: int) -> list[Shared]:
        """Every prompt's keys and values of a layer, and its rows."""
        layers = (prompt.layers[layer] for prompt in self._prompts)
        return [Shared(*states, rows) for states, rows in zip(layers, self._rows, strict=True)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions in front of the responses'."""
        return 0 if self._forked else self._longest

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, KV heads, tokens, head_dim) of a layer: responses', or prompts' first."""
        if self._forked:
            return key_states, value_states
        return self._joined(key_states, layer_idx, 0), self._joined(value_states, layer_idx, 1)

    def _joined(self, states: Tensor, layer: int, which: int) -> Tensor:
        padded = [
            nn.functional.pad(part, (0, 0, self._longest - part.shape[1], 0))
            for part in (prompt.layers[layer][which] for prompt in self._prompts)
        ]
        return torch.cat([torch.stack(padded)[self._owner].to(states.dtype), states], 2)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    prefix: PrefixCache | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: forked where there is a prefix, else torch's."""
    if prefix is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
        return out, None
    layer: Any = module.layer_idx
    out = forked_attention(query, key, value, prefix.shared(layer), scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(_FORKED, _attention)
AttentionMaskInterface.register(_FORKED, sdpa_mask)


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Keys and values (KV heads, tokens, head_dim) of every layer."""

    layers: list[tuple[Tensor, Tensor]]

    @property
    def num_tokens(self) -> int:
        return self.layers[0][0].shape[1]

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for layer in self.layers for part in layer)
