"""Native handles and the order in which they go: context, batch, adapters, model.

Owns memory, makes no decision: which context is wanted, and when, is the engine's business. Everything
here may be closed twice, so that an engine that is closed, or only forgotten, frees each handle once.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from edgereason.engine.base import Adapter
from edgereason.engine.native import C, complaints, fail, forget_complaints
from edgereason.engine.sampling import NativeSampler
from edgereason.errors import BundleError, ModelFileError


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
        forget_complaints()
        pointer = C.llama_adapter_lora_init(self.model, str(path).encode())
        if not pointer:  # this binding returns a null pointer, not None
            raise BundleError(f"{path.name} is no LoRA adapter for this model: {complaints()}")
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
        ModelFileError: it is missing, no file, unreadable or begins with something else.
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


def load_model(path: Path) -> Any:
    """A model that the engine can fork sequences of."""
    check_gguf(path, "model")
    forget_complaints()
    model = C.llama_model_load_from_file(str(path).encode(), C.llama_model_default_params())
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
