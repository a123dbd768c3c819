"""Native objects and the order in which they are freed: samplers, batch, adapters, context, model.

Nothing here decides anything: which context is wanted, and when, is the engine's business. Everything may
be closed twice, so that an engine that is closed, or only forgotten, frees each handle once.

`top_k` comes first in a chain of samplers because every filter after it then sees dozens of entries, not
the vocabulary. Without any filter a chain takes an exponential per entry, one by one, for every stream and
step of a rollout; numpy takes them together, in a fraction of the time.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgereason.core.bundle import require_one_file
from edgereason.core.printable import on_one_line
from edgereason.core.types import Sampling
from edgereason.engine import native
from edgereason.engine.base import Adapter, KvType, ModelInfo
from edgereason.engine.cells import Ledger
from edgereason.engine.mapped import MappedPages
from edgereason.engine.native import C, complaints, fail, forget_complaints
from edgereason.errors import BundleError, ModelFileError

_ADAPTER_KEYS: Final[dict[str, tuple[int, ...]]] = {
    "general.type": (native.GGUF_STRING,),
    "general.architecture": (native.GGUF_STRING,),
    "adapter.type": (native.GGUF_STRING,),
    "adapter.lora.alpha": (native.GGUF_FLOAT32,),
    "adapter.alora.invocation_tokens": (native.GGUF_ARRAY, native.GGUF_UINT32),
}
_ADAPTER_TENSORS: Final = frozenset({0, 1, 8, 30})
"""ggml's numbers of F32, F16, Q8_0 and BF16."""


class NativeSampler:
    """Owns one `llama_sampler` chain, and stands in `registry` until it is closed."""

    def __init__(self, sampling: Sampling, seed: int, registry: set[NativeSampler]) -> None:
        self._registry = registry
        registry.add(self)
        greedy = sampling.temperature == 0.0
        self._temperature = 1.0 if greedy else sampling.temperature
        self.chain: Any = C.llama_sampler_chain_init(C.llama_sampler_chain_params(no_perf=True))
        for link in self._links(sampling, seed, greedy=greedy):
            C.llama_sampler_chain_add(self.chain, link)

    @property
    def temperature(self) -> float:
        return self._temperature

    @staticmethod
    def _links(sampling: Sampling, seed: int, *, greedy: bool) -> list[Any]:
        if greedy:
            return [C.llama_sampler_init_greedy()]
        links = [C.llama_sampler_init_top_k(sampling.top_k)] if sampling.top_k else []
        links.append(C.llama_sampler_init_temp(sampling.temperature))
        if sampling.top_p < 1.0:
            links.append(C.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            links.append(C.llama_sampler_init_min_p(sampling.min_p, 1))
        return [*links, C.llama_sampler_init_dist(seed)]

    def draw(self, context: Any, row: int, logits: npt.NDArray[np.float32]) -> int:
        """A token after batch row `row` of the latest decode, whose logits these are, (V,)."""
        return int(C.llama_sampler_sample(self.chain, context, row))

    def close(self) -> None:
        """Frees the chain with all its links; a second call does nothing."""
        if self.chain is not None:
            C.llama_sampler_free(self.chain)
            self.chain = None
            self._registry.discard(self)


class SoftmaxSampler:
    """Draws from the whole vocabulary; owns nothing native."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._random = np.random.default_rng(seed)

    @property
    def temperature(self) -> float:
        return self._temperature

    def draw(self, context: Any, row: int, logits: npt.NDArray[np.float32]) -> int:
        """A token after batch row `row` of the latest decode, whose logits these are, (V,)."""
        mass = np.exp((logits - logits.max()) / np.float32(self._temperature)).cumsum(dtype=np.float64)
        return int(np.searchsorted(mass, self._random.random() * mass[-1], side="right"))

    def close(self) -> None:
        """Nothing to free."""


def logits_row(context: Any, row: int, vocab_size: int) -> npt.NDArray[np.float32]:
    """The logits after batch row `row` of the latest decode, a view of (V,) float32: copy to keep."""
    pointer = C.llama_get_logits_ith(context, row)
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (vocab_size,))


def log_probability(logits: npt.NDArray[np.float32], token: int, temperature: float) -> float:
    """Log-probability of `token` under softmax(logits / temperature) over the whole vocabulary."""
    scaled = logits / np.float32(temperature)
    top = float(scaled.max())
    return float(scaled[token]) - top - float(np.log(np.exp(scaled - top).sum(dtype=np.float64)))


class Handles:
    """A model, at most one context over it, its batch, adapters and sampler chains."""

    def __init__(self, path: Path) -> None:
        self.model: Any = None
        self.context: Any = None
        self.batch: Any = None
        self.adapters: dict[Adapter, Any] = {}
        self.active: Adapter | None = None
        self.samplers: set[NativeSampler] = set()
        self.model = load_model(path)

    @property
    def num_open(self) -> int:
        """Handles that are alive."""
        return (
            sum(h is not None for h in (self.model, self.context, self.batch))
            + len(self.adapters)
            + len(self.samplers)
        )

    def open_context(self, params: Any, batch_tokens: int) -> None:
        """Replaces the context by one made with `params`."""
        self.close_context()
        forget_complaints()
        self.context = C.llama_init_from_model(self.model, params)
        if self.context is None:
            raise fail(f"no context of {params.n_ctx} cells could be made")
        self.batch = C.llama_batch_init(batch_tokens, 0, 1)

    def close_context(self) -> None:
        """Frees context and batch, if there are any."""
        if self.context is not None:
            C.llama_free(self.context)
            self.context = self.active = None
        if self.batch is not None:
            C.llama_batch_free(self.batch)
            self.batch = None

    def open_adapter(self, path: Path) -> Adapter:
        """Loads a LoRA GGUF for this model."""
        check_gguf(path, "adapter")
        _check_adapter(path)
        forget_complaints()
        pointer = C.llama_adapter_lora_init(self.model, os.fsencode(path))
        if not pointer:  # this binding returns a null pointer, not None
            raise BundleError(f"{path.name} is not a LoRA adapter for this model: {complaints()}")
        adapter = Adapter(path)
        self.adapters[adapter] = pointer
        return adapter

    def use(self, adapter: Adapter | None) -> None:
        """Has the context decode under an adapter from now on."""
        if adapter is self.active:
            return
        pointers = [self.adapters[adapter]] if adapter else []
        array = (C.llama_adapter_lora_p_ctypes * len(pointers))(*pointers)
        scales = (ctypes.c_float * len(pointers))(*[1.0] * len(pointers))
        if C.llama_set_adapters_lora(self.context, array, len(pointers), scales) != 0:
            raise fail("the adapter could not be switched")
        self.active = adapter

    def close_adapter(self, adapter: Adapter) -> None:
        """Frees one adapter."""
        if self.active is adapter:
            # llama.cpp compares adapters by pointer, and a new one may get this one's address.
            self.use(None)
        C.llama_adapter_lora_free(self.adapters.pop(adapter))

    def close(self) -> None:
        """Frees everything. An adapter must go before its model, and after the context that used it."""
        for sampler in list(self.samplers):
            sampler.close()
        self.samplers.clear()
        self.close_context()
        for adapter in list(self.adapters):
            self.close_adapter(adapter)
        if self.model is not None:
            C.llama_model_free(self.model)
            self.model = None


def check_gguf(path: Path, what: str) -> None:
    """Refuses a file that can't be a GGUF, before llama.cpp sees it.

    Raises:
        ModelFileError: it is missing, no file, unreadable, begins with something else, or is one of several.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        raise ModelFileError(
            f"no {what} file at {path}: check the path, or see `edgereason models`"
        ) from error
    except OSError as error:
        raise ModelFileError(f"the {what} file {path} can't be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise ModelFileError(f"{path} is not a GGUF file: it begins with {magic!r}, expected b'GGUF'")
    require_one_file(path)


def _check_adapter(path: Path) -> None:
    """Refuses an adapter on which llama.cpp would abort: it reads these keys without a look at their types.

    Raises:
        BundleError: the file is not a whole GGUF, or a type is not the one that llama.cpp reads.
    """
    types = native.gguf_types(path, _ADAPTER_KEYS)
    for key, expected in _ADAPTER_KEYS.items():
        if types.keys.get(key, expected) != expected:
            raise BundleError(f"{path.name} is not a LoRA adapter: {key} is of another type: get it again")
    if unknown := types.tensors - _ADAPTER_TENSORS:
        raise BundleError(
            f"{path.name} has a tensor of ggml's type {min(unknown)}; an adapter has F32, F16, BF16 or Q8_0"
        )


def load_model(path: Path) -> Any:
    """A model that the engine can fork sequences of."""
    check_gguf(path, "model")
    forget_complaints()
    params, pages = C.llama_model_default_params(), MappedPages(path)
    params.progress_callback = pages.callback
    model = C.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        raise ModelFileError(
            f"{path} can't be loaded, it may be truncated or for another program: {complaints()}"
        )
    unfit = (
        ("a recurrent or hybrid model, whose state can't be shared between streams")
        if C.llama_model_is_recurrent(model) or C.llama_model_is_hybrid(model)
        else "an encoder model, which doesn't generate"
        if C.llama_model_has_encoder(model) or not C.llama_model_has_decoder(model)
        else None
    )
    if unfit:
        C.llama_model_free(model)
        raise ModelFileError(f"{path} is {unfit}: edgereason needs a decoder-only transformer")
    return model


_KV_TYPES: Final[dict[KvType, tuple[int, float]]] = {"f16": (1, 2.0), "q8_0": (8, 34 / 32)}
"""ggml type number and bytes an element."""

BATCH_TOKENS: Final = 512
"""Most tokens of one native batch, and the chunk between two looks at `should_stop`."""
CELL_STEP: Final = 256
"""llama.cpp rounds a context up to this many cells."""
MIN_SEQUENCES: Final = 4


def context_params(ledger: Ledger, *, threads: int, kv: KvType = "f16") -> Any:
    """Native parameters of a context with the ledger's cells and slots, less the callback."""
    params = C.llama_context_default_params()
    params.n_ctx = round_up(ledger.cells + ledger.each)
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = ledger.slots + bool(ledger.each)
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = _KV_TYPES[kv][0]
    params.kv_unified = not ledger.each
    params.no_perf = True
    return params


def round_up(cells: int) -> int:
    """Cells of the context that holds so many."""
    return -(-cells // CELL_STEP) * CELL_STEP


def describe(path: Path, model: Any, vocab: Any, kv: KvType) -> ModelInfo:
    """What is read off a loaded model; `kv` prices its cells.

    Raises:
        ModelFileError: its metadata contradict themselves.
    """
    try:
        return _describe(path, model, vocab, kv)
    except (ArithmeticError, ValueError) as error:
        raise ModelFileError(f"{path} has metadata that can't be right ({error}): get it again") from error


def _describe(path: Path, model: Any, vocab: Any, kv: KvType) -> ModelInfo:
    arch = on_one_line(native.metadata(model, "general.architecture") or "unknown")
    heads, kv_heads = C.llama_model_n_head(model), C.llama_model_n_head_kv(model)
    hidden_size, num_layers = C.llama_model_n_embd(model), C.llama_model_n_layer(model)
    head_size = hidden_size // heads
    key_size = int(native.metadata(model, f"{arch}.attention.key_length") or head_size)
    value_size = int(native.metadata(model, f"{arch}.attention.value_length") or head_size)
    template = C.llama_model_chat_template(model, None)
    return ModelInfo(
        path=path,
        name=on_one_line(native.metadata(model, "general.name") or path.stem),
        arch=arch,
        size_bytes=path.stat().st_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        vocab_size=C.llama_vocab_n_tokens(vocab),
        train_context_tokens=C.llama_model_n_ctx_train(model),
        kv_bytes_per_cell=int(num_layers * kv_heads * (key_size + value_size) * _KV_TYPES[kv][1]),
        chat_template=bytes(template).decode("utf-8") if template else "",
        bos_text=native.token_text(vocab, C.llama_vocab_bos(vocab)),
        eos_text=native.token_text(vocab, C.llama_vocab_eos(vocab)),
        add_bos=bool(C.llama_vocab_get_add_bos(vocab)),
    )
