"""llama-cpp-python's high-level `Llama`, one completion after another: it has no batch.

Completions of a fixed length go through `Llama.generate`, its own loop over tokens, because
`create_completion` can't be kept from ending a turn but by a Python callback over the whole vocabulary at
every token. That spares this peer most of its text handling. From the second completion on it finds the
prompt in its cache, as it does for its users.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from benchmarks.peers.cases import (
    SAMPLING,
    Case,
    Completion,
    Outcome,
    Peer,
    Setting,
    llama_features,
)

_SAMPLING: Final[dict[str, Any]] = {"top_k": SAMPLING.top_k, "top_p": SAMPLING.top_p, "min_p": SAMPLING.min_p}


class Contender(Peer):
    """A `Peer`; see `cases.py`."""

    is_sequential = True
    remarks = ("fixed lengths through Llama.generate, votes through Llama.create_completion",)

    def load(self, setting: Setting) -> None:
        from llama_cpp import Llama

        self._llama: Any = Llama(
            setting.model,
            n_ctx=setting.context_tokens,
            n_threads=setting.threads,
            n_threads_batch=setting.threads,
            verbose=False,
        )

    def features(self) -> list[str]:
        from llama_cpp import llama_print_system_info

        return llama_features(llama_print_system_info().decode())

    def complete(self, case: Case) -> Outcome:
        self._llama.reset()  # or a later round would find its prompt encoded
        complete = self._turn if case.votes else self._fixed_length
        return Outcome([complete(case, case.seed + i) for i in range(case.num_completions)])

    def _fixed_length(self, case: Case, seed: int) -> Completion:
        llama = self._llama
        llama.set_seed(seed)
        drawn = llama.generate(list(case.prompt_ids), temp=SAMPLING.temperature, **_SAMPLING)
        tokens = list(islice(drawn, case.limit_tokens))
        return Completion(llama.detokenize(tokens).decode("utf-8", "replace"), len(tokens))

    def _turn(self, case: Case, seed: int) -> Completion:
        reply = self._llama.create_completion(
            list(case.prompt_ids),
            max_tokens=case.limit_tokens,
            temperature=SAMPLING.temperature,
            seed=seed,
            **_SAMPLING,
        )
        return Completion(reply["choices"][0]["text"], reply["usage"]["completion_tokens"])

    def close(self) -> None:
        self._llama.close()
