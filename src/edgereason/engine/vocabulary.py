"""An engine's way from text to ids, as other processes can be given it.

Several processes tokenize a large data set. None of them needs the model's weights: each loads the vocabulary
of the file alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgereason.core.chat import Tokenize
from edgereason.engine import native
from edgereason.engine.base import Engine
from edgereason.engine.handles import check_gguf
from edgereason.errors import ModelFileError


def portable_tokenize(engine: Engine) -> Tokenize:
    """The engine's `tokenize`; where it is unpickled, that of the vocabulary in the engine's file.

    An engine without a file gives its own method, which can be pickled only if the engine can.
    """
    path = engine.info.path
    return engine.tokenize if path is None else _OfEngine(engine, path)


class _OfEngine:
    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine, self._path = engine, path

    def __call__(self, text: str, *, special: bool = False) -> list[int]:
        return self._engine.tokenize(text, special=special)

    def __reduce__(self) -> tuple[type[_OfFile], tuple[Path]]:
        return _OfFile, (self._path,)


class _OfFile:
    """Stays open as long as the process: there is one for each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        check_gguf(path, "model")
        params = native.C.llama_model_default_params()
        params.vocab_only = True
        native.forget_complaints()
        model = native.C.llama_model_load_from_file(os.fsencode(path), params)
        if model is None:
            raise ModelFileError(f"the vocabulary of {path} can't be loaded: {native.complaints()}")
        self._vocab: Any = native.C.llama_model_get_vocab(model)
        self._adds_space = native.adds_space(self._vocab)

    def __call__(self, text: str, *, special: bool = False) -> list[int]:
        return native.tokenize(self._vocab, text, special=special, without_space=self._adds_space)

    def __reduce__(self) -> tuple[type[_OfFile], tuple[Path]]:
        return _OfFile, (self._path,)
