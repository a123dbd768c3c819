"""transformers on the CPU: the GGUF dequantized to float32, `num_return_sequences` over one prompt, batched.

Runs in a process of its own and is imported nowhere else: the product and its benches never reach torch.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from benchmarks.peers.cases import SAMPLING, Case, Completion, Outcome, Peer, Setting


class Contender(Peer):
    """A `Peer`; see `cases.py`."""

    remarks = ("weights and KV cache in float32: transformers dequantizes a GGUF",)

    def load(self, setting: Setting) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self._torch.set_num_threads(setting.threads)
        file = Path(setting.model)
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=self._torch.float32
        )
        self._end_ids = _ids(self._model.generation_config.eos_token_id)

    def complete(self, case: Case) -> Outcome:
        torch = self._torch
        torch.manual_seed(case.seed)
        prompt = torch.tensor([case.prompt_ids])
        with torch.inference_mode():
            rows = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=case.limit_tokens,
                min_new_tokens=None if case.votes else case.limit_tokens,
                num_return_sequences=case.num_completions,
                do_sample=True,
                temperature=SAMPLING.temperature,
                top_k=SAMPLING.top_k,
                top_p=SAMPLING.top_p,
                pad_token_id=self._end_ids[0] if self._end_ids else 0,
            )
        drawn = [self._without_padding(row, case) for row in rows[:, prompt.shape[1] :].tolist()]
        texts = self._tokenizer.batch_decode(drawn, skip_special_tokens=True)
        return Outcome([Completion(text, len(row)) for text, row in zip(texts, drawn, strict=True)])

    def _without_padding(self, row: list[int], case: Case) -> list[int]:
        """A row up to its end of turn, where turns may end; behind it there is padding."""
        if not case.votes:
            return row
        return row[: next((i for i, token in enumerate(row) if token in self._end_ids), len(row))]

    def close(self) -> None:
        del self._model


def _ids(value: int | list[int] | None) -> list[int]:
    """The ids that end a turn, which transformers keeps as one, several or none."""
    return [] if value is None else [value] if isinstance(value, int) else list(value)
