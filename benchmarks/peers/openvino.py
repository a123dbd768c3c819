"""OpenVINO GenAI's `LLMPipeline` on the GGUF: `num_return_sequences` over one prompt, batched.

Its KV cache is set to f16 (its own default is 8 bits) and grows as needed; its cache of earlier prompts is
off.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.peers.cases import SAMPLING, Case, Completion, Outcome, Peer, Setting


class Contender(Peer):
    """A `Peer`; see `cases.py`."""

    remarks = ("reads the GGUF into its own kernels; the KV cache grows as needed",)

    def load(self, setting: Setting) -> None:
        self._openvino: Any = importlib.import_module("openvino")
        self._genai: Any = importlib.import_module("openvino_genai")
        scheduler = self._genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        self._pipeline: Any = self._genai.LLMPipeline(
            setting.model,
            "CPU",
            scheduler_config=scheduler,
            KV_CACHE_PRECISION="f16",
            INFERENCE_NUM_THREADS=setting.threads,
        )
        self._tokenizer: Any = self._pipeline.get_tokenizer()

    def complete(self, case: Case) -> Outcome:
        config = self._pipeline.get_generation_config()
        config.max_new_tokens = case.limit_tokens
        config.ignore_eos = not case.votes
        config.num_return_sequences = case.num_completions
        config.do_sample = True
        config.temperature = SAMPLING.temperature
        config.top_k = SAMPLING.top_k
        config.top_p = SAMPLING.top_p
        config.rng_seed = case.seed
        ids = np.array([case.prompt_ids], np.int64)
        tensor = self._openvino.Tensor
        inputs = self._genai.TokenizedInputs(tensor(ids), tensor(np.ones_like(ids)))
        reply = self._pipeline.generate(inputs, config)
        texts = self._tokenizer.decode(reply.tokens)
        return Outcome(
            [Completion(text, len(tokens)) for text, tokens in zip(texts, reply.tokens, strict=True)]
        )

    def close(self) -> None:
        del self._tokenizer, self._pipeline
