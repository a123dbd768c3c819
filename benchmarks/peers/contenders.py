"""The contenders: each runtime as its users run it, ours among them.

Each runs in a process of its own (`worker.py`) and imports its runtime when it loads, so no process has the
runtime of another.
"""

from __future__ import annotations

import importlib
import json
import os
import urllib.request
from itertools import islice
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.cases import SAMPLING, Case, CaseResult, CaseSetting, Completion, Peer
from edgereason.core.types import Budget, Message, Mode, Request

_FILTERS: Final[dict[str, Any]] = {"top_k": SAMPLING.top_k, "top_p": SAMPLING.top_p, "min_p": SAMPLING.min_p}
_QUIET: Final = 0
_COUNT_LIMIT_S: Final = 30.0


class Edgereason(Peer):
    """Requests through `Model.run`, as a caller of the Python API makes them."""

    remarks = ("forces an answer within the tokens of each stream",)

    def load(self, setting: CaseSetting) -> None:
        from edgereason.engine.llama import LlamaEngine
        from edgereason.reasoning.model import Model

        class TurnsEndOnDemand(LlamaEngine):
            """The engine; where turns must not end, the end of a turn is drawn like any token."""

            turns_end = True

            def is_end(self, token: int) -> bool:
                return super().is_end(token) and self.turns_end

        self._engine = TurnsEndOnDemand(
            Path(setting.model), threads=setting.threads, context_tokens=setting.context_tokens
        )
        self._model = Model(self._engine)

    def features(self) -> list[str]:
        from edgereason.engine.native import C

        return llama_features(C.llama_print_system_info().decode())

    def complete(self, case: Case) -> CaseResult:
        from edgereason.reasoning.runs import last_response

        self._engine.turns_end = case.votes
        request = Request(
            messages=(Message("user", case.question),),
            mode=Mode.THINK if case.votes else Mode.CHAT,
            budget=Budget(limit_tokens=case.limit_tokens) if case.votes else None,
            max_tokens=case.limit_tokens,
            streams=case.num_completions,
            sampling=SAMPLING,
            seed=case.seed,
            stop_early=case.stop_early,
        )
        response = last_response(self._model.run(request))
        candidates = response.candidates
        return CaseResult(
            [Completion(one.trace.text, one.trace.num_tokens) for one in candidates],
            response.answer if response.winner is not None else None,
            sum(one.answer is not None for one in candidates),
        )

    def close(self) -> None:
        self._model.close()


class LlamaCppPython(Peer):
    """Its high-level `Llama`, one completion after another: it has no batch.

    Completions of a fixed length go through `Llama.generate`, its own loop over tokens, because
    `create_completion` can't be kept from ending a turn but by a Python callback over the whole vocabulary
    at every token. That spares this peer most of its text handling. From the second completion on it finds
    the prompt in its cache, as it does for its users.
    """

    is_sequential = True
    remarks = ("fixed lengths through Llama.generate, votes through Llama.create_completion",)

    def load(self, setting: CaseSetting) -> None:
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

    def complete(self, case: Case) -> CaseResult:
        self._llama.reset()  # or a later round would find its prompt encoded
        complete = self._turn if case.votes else self._fixed_length
        return CaseResult([complete(case, case.seed + i) for i in range(case.num_completions)])

    def _fixed_length(self, case: Case, seed: int) -> Completion:
        llama = self._llama
        llama.set_seed(seed)
        drawn = llama.generate(list(case.prompt_ids), temp=SAMPLING.temperature, **_FILTERS)
        tokens = list(islice(drawn, case.limit_tokens))
        return Completion(llama.detokenize(tokens).decode("utf-8", "replace"), len(tokens))

    def _turn(self, case: Case, seed: int) -> Completion:
        reply = self._llama.create_completion(
            list(case.prompt_ids),
            max_tokens=case.limit_tokens,
            temperature=SAMPLING.temperature,
            seed=seed,
            **_FILTERS,
        )
        return Completion(reply["choices"][0]["text"], reply["usage"]["completion_tokens"])

    def close(self) -> None:
        self._llama.close()


class IkLlamaCppPython(Peer):
    """ik_llama.cpp through its `IkLlama.generate`, one completion after another, each with its own prefill.

    It has no batch for texts and takes no seed. Without AVX-VNNI it turns its flash attention off by itself.
    Where turns must not end, its question whether a token ends one is answered with no.
    """

    is_sequential = True
    remarks = ("IkLlama.generate, which encodes the prompt for each completion and takes no seed",)

    def load(self, setting: CaseSetting) -> None:
        self._api: Any = importlib.import_module("ik_llama_cpp.llama").C
        self._ends_turn = self._api.llama_token_is_eog
        self._llama: Any = importlib.import_module("ik_llama_cpp").IkLlama(
            setting.model, n_ctx=setting.context_tokens, n_threads=setting.threads, verbose=False
        )

    def complete(self, case: Case) -> CaseResult:
        self._api.llama_token_is_eog = self._ends_turn if case.votes else lambda *_: False
        return CaseResult([self._draw(case) for _ in range(case.num_completions)])

    def _draw(self, case: Case) -> Completion:
        tokens = self._llama.generate(
            list(case.prompt_ids),
            max_tokens=case.limit_tokens,
            temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k,
            top_p=SAMPLING.top_p,
        )
        return Completion(self._llama.detokenize(tokens), len(tokens))

    def close(self) -> None:
        self._llama.close()


class Xllamacpp(Peer):
    """llama.cpp's own server, in process: `n` completions over one prompt in one request.

    The server encodes the prompt once, copies it to n slots of a unified cache and decodes them as a batch.
    Its cache of earlier prompts is off: a later round would find its prompt encoded.
    """

    remarks = ("one request with n completions; the server's cache of earlier prompts is off",)

    def load(self, setting: CaseSetting) -> None:
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

    def complete(self, case: Case) -> CaseResult:
        reply = self._server.handle_completions(
            {
                "prompt": list(case.prompt_ids),
                "n": case.num_completions,
                "max_tokens": case.limit_tokens,
                "ignore_eos": not case.votes,
                "cache_prompt": False,
                "temperature": SAMPLING.temperature,
                "seed": case.seed,
                **_FILTERS,
            }
        )
        if "choices" not in reply:
            raise RuntimeError(f"the server answered {reply}")
        return CaseResult(
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


class OpenvinoGenai(Peer):
    """Its `LLMPipeline` on the GGUF: `num_return_sequences` over one prompt, batched.

    Its KV cache is set to f16 (its own default is 8 bits) and grows as needed; its cache of earlier prompts
    is off.
    """

    remarks = ("reads the GGUF into its own kernels; the KV cache grows as needed",)

    def load(self, setting: CaseSetting) -> None:
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

    def complete(self, case: Case) -> CaseResult:
        import numpy as np

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
        return CaseResult(
            [Completion(text, len(tokens)) for text, tokens in zip(texts, reply.tokens, strict=True)]
        )

    def close(self) -> None:
        del self._tokenizer, self._pipeline


class Transformers(Peer):
    """On the CPU, the GGUF dequantized to float32: `num_return_sequences` over one prompt, batched."""

    remarks = ("weights and KV cache in float32: transformers dequantizes a GGUF",)

    def load(self, setting: CaseSetting) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        self._torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
        self._torch.set_num_threads(setting.threads)
        file = Path(setting.model)
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=self._torch.float32
        )
        ends: int | list[int] | None = self._model.generation_config.eos_token_id
        self._end_ids = [] if ends is None else [ends] if isinstance(ends, int) else ends

    def complete(self, case: Case) -> CaseResult:
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
        return CaseResult([Completion(text, len(row)) for text, row in zip(texts, drawn, strict=True)])

    def _without_padding(self, row: list[int], case: Case) -> list[int]:
        """A row up to its end of turn, where turns may end; behind it there is padding."""
        if not case.votes:
            return row
        return row[: next((i for i, token in enumerate(row) if token in self._end_ids), len(row))]

    def close(self) -> None:
        del self._model


def llama_features(system_info: str) -> list[str]:
    """What llama.cpp's system info says is on, such as AVX512 or REPACK."""
    pairs = (part.split("=") for part in system_info.split("|") if "=" in part)
    return [name.rpartition(":")[2].strip() for name, value in pairs if value.strip() == "1"]
