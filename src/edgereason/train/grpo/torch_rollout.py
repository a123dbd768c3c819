"""Responses drawn in torch, all of an update in one batch: for a GPU, and as the engine's reference.

::

    keys    │ pad  prompt │ pad  opening hint │ sampled …          padding is masked, positions leave it out
            │ base, once  │ adapter on ───────────────→
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from edgereason.engine.base import TextDecoder
from edgereason.reasoning.calculator import Calculator, number_instead_of
from edgereason.train.grpo.rollout import Drawn, Vocabulary, Want
from edgereason.train.lora.masked_lora import MaskedLora


class TorchRollouts:
    """Draws from a policy as it is.

    Args:
        policy: with the current adapter.
        ends: tokens that end a turn.
        temperature: of the draws, above 0; all of the vocabulary may be drawn.
        most_rows: responses of a batch, whole wants; None for all of them in one.
        calculates: the vocabulary, if exact results of arithmetic are to be forced.
    """

    def __init__(
        self,
        policy: MaskedLora,
        ends: frozenset[int],
        *,
        temperature: float,
        most_rows: int | None = None,
        calculates: Vocabulary | None = None,
    ) -> None:
        self._policy, self._ends, self._temperature = policy, ends, temperature
        self._most_rows = most_rows
        self._spelling = _Spelling(calculates) if calculates else None

    @torch.no_grad()
    def __call__(self, wants: Sequence[Want]) -> list[list[Drawn]]:
        """The responses to each want, in order."""
        decoder = self._policy.decoder
        training = decoder.training
        decoder.eval()  # gradient checkpointing, which only training has, would drop the cache
        try:
            drawn = [one for some in self._batches(wants) for one in self._draw(some)]
        finally:
            decoder.train(training)
        in_order = iter(drawn)
        return [[next(in_order) for _ in range(want.count)] for want in wants]

    def _batches(self, wants: Sequence[Want]) -> list[list[Want]]:
        batches: list[list[Want]] = []
        for want in wants:
            rows = sum(one.count for one in batches[-1]) if batches else 0
            if not batches or (self._most_rows is not None and rows + want.count > self._most_rows):
                batches.append([])
            batches[-1].append(want)
        return batches

    def _draw(self, wants: Sequence[Want]) -> list[Drawn]:
        device, rows = self._policy.head.device, [want for want in wants for _ in range(want.count)]
        prompts = torch.tensor([len(row.prompt) for row in rows], device=device)
        cache, present = self._prefix(wants, prompts)
        forced, given = _padded([row.forced for row in rows], device)
        present = torch.cat([present, given], 1)
        positions = prompts[:, None] + (given.cumsum(1) - 1).clamp(min=0)
        states = self._states(forced, positions, present, cache)
        position = prompts + torch.tensor([len(row.forced) for row in rows], device=device)
        sources = [
            torch.Generator(device).manual_seed(want.seed + i) for want in wants for i in range(want.count)
        ]
        responses = [_Response(row.cap_tokens, self._spelling) for row in rows]
        running = list(range(len(rows)))
        while True:
            tokens, found = self._sample(states, sources)
            told = list(zip(tokens.tolist(), found.tolist(), strict=True))
            for row in running.copy():
                tokens[row] = responses[row].take(*told[row])
                if responses[row].ids[-1] in self._ends or len(responses[row].ids) == rows[row].cap_tokens:
                    running.remove(row)
            if not running:
                return [one.drawn(self._ends) for one in responses]
            present = torch.cat([present, present.new_ones(len(rows), 1)], 1)
            states = self._states(tokens[:, None], position[:, None], present, cache)
            position = position + 1

    def _prefix(self, wants: Sequence[Want], lengths: Tensor) -> tuple[DynamicCache, Tensor]:
        """Every row's prompt in a cache, padded on the left; and where it is not padding."""
        longest = int(lengths.max())
        counts = torch.tensor([want.count for want in wants], device=lengths.device)
        prompts = [self._policy.encoded(want.prompt) for want in wants]
        cache = DynamicCache()
        for layer in range(len(prompts[0].layers)):
            keys, values = (
                torch.stack(
                    [
                        nn.functional.pad(prompt.layers[layer][which], (0, 0, longest - prompt.num_tokens, 0))
                        for prompt in prompts
                    ]
                ).repeat_interleave(counts, 0)
                for which in (0, 1)
            )
            cache.update(keys, values, layer)
        places = torch.arange(longest, device=lengths.device)
        return cache, (places >= longest - lengths[:, None]).long()

    def _states(self, ids: Tensor, positions: Tensor, present: Tensor, cache: DynamicCache) -> Tensor:
        """(rows, hidden) final states of the last token."""
        hidden: Tensor = self._policy.decoder(
            input_ids=ids,
            position_ids=positions,
            attention_mask=present,
            use_cache=True,
            **{self._policy.cache_argument: cache},
        ).last_hidden_state
        return hidden[:, -1]

    def _sample(self, states: Tensor, sources: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """A token for every row, and its log-probability."""
        head = self._policy.head
        logits = nn.functional.linear(states.to(head.dtype), head).float() / self._temperature
        logprobs = logits.log_softmax(1)
        chances = logprobs.exp()
        tokens = torch.cat(
            [
                torch.multinomial(row, 1, generator=source)
                for row, source in zip(chances, sources, strict=True)
            ]
        )
        return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


class _Spelling:
    """Ids of a number without a tokenizer: the longest token that fits, as tokenizers split digits."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.pieces = vocabulary.pieces
        self._ids = {piece: token for token, piece in enumerate(vocabulary.pieces) if piece}

    def __call__(self, text: str, *, special: bool = False) -> list[int]:
        ids, rest = [], text.encode()
        while rest:
            length = next(n for n in range(len(rest), 0, -1) if rest[:n] in self._ids)
            ids.append(self._ids[rest[:length]])
            rest = rest[length:]
        return ids


class _Response:
    """One response as it is drawn.

    Args:
        cap_tokens: where it is cut.
        spelling: of results, if they are forced.
    """

    def __init__(self, cap_tokens: int, spelling: _Spelling | None) -> None:
        self._cap_tokens = cap_tokens
        self._spelling = spelling
        self._calculator = Calculator(spelling) if spelling else None
        self._decoder = TextDecoder()
        self._owed: list[int] = []
        self.ids: list[int] = []
        self._logprobs: list[float] = []
        self._forced: list[int] = []

    def take(self, token: int, logprob: float) -> int:
        """What is said where this token was drawn: that, or the next of a result."""
        if not self._owed:
            self._owed = self._result(token)
        if self._owed:
            token, logprob = self._owed.pop(0), 0.0
            self._forced.append(len(self.ids))
        self.ids.append(token)
        self._logprobs.append(logprob)
        return token

    def _result(self, token: int) -> list[int]:
        if self._spelling is None:
            return []
        text = self._decoder.push(self._spelling.pieces[token])
        room_tokens = self._cap_tokens - len(self.ids)
        number = number_instead_of(self._calculator, text, lambda num_tokens: num_tokens < room_tokens)
        return [] if number is None else list(number.ids)

    def drawn(self, ends: frozenset[int]) -> Drawn:
        """All of it."""
        return Drawn(tuple(self.ids), tuple(self._logprobs), self.ids[-1] in ends, tuple(self._forced))


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(rows, longest) ids padded on the left, and where they are none."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + list(row) for row in rows]
    given = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(given, device=device)
