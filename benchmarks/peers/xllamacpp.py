"""llama.cpp's own server, in process through xllamacpp: `n` completions over one prompt in one request.

The server encodes the prompt once, copies it to n slots of a unified cache and decodes them as a batch. Its
cache of earlier prompts is off: a later round would find its prompt encoded.
"""

from __future__ import annotations

import importlib
import json
import urllib.request
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

_QUIET: Final = 0
_COUNT_LIMIT_S: Final = 30.0


class Contender(Peer):
    """A `Peer`; see `cases.py`."""

    remarks = ("one request with n completions; the server's cache of earlier prompts is off",)

    def load(self, setting: Setting) -> None:
        xllamacpp: Any = importlib.import_module("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = setting.model
        params.n_ctx = setting.context_tokens
        params.n_parallel = setting.streams
        params.kv_unified = True
        params.cache_ram_mib = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setting.threads
        params.verbosity = _QUIET
        self._system_info: str = xllamacpp.get_system_info()
        self._server = xllamacpp.Server(params)

    def features(self) -> list[str]:
        return llama_features(self._system_info)

    def complete(self, case: Case) -> Outcome:
        reply = self._server.handle_completions(
            {
                "prompt": list(case.prompt_ids),
                "n": case.num_completions,
                "max_tokens": case.limit_tokens,
                "ignore_eos": not case.votes,
                "cache_prompt": False,
                "temperature": SAMPLING.temperature,
                "top_k": SAMPLING.top_k,
                "top_p": SAMPLING.top_p,
                "min_p": SAMPLING.min_p,
                "seed": case.seed,
            }
        )
        if "choices" not in reply:
            raise RuntimeError(f"the server answered {reply}")
        return Outcome(
            [
                Completion(choice["text"], case.limit_tokens if choice["finish_reason"] == "length" else None)
                for choice in reply["choices"]
            ]
        )

    def count_tokens(self, text: str) -> int:
        """By its own tokenizer, which only its HTTP side offers."""
        request = urllib.request.Request(
            f"{self._server.listening_address}/tokenize",
            json.dumps({"content": text, "add_special": False}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_COUNT_LIMIT_S) as reply:
            return len(json.load(reply)["tokens"])

    def close(self) -> None:
        del self._server
