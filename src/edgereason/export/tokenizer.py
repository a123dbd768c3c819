"""A GGUF's byte-pair vocabulary as `tokenizer.json`, which runtimes other than llama.cpp read.

::

    tokens, merges ─→ model       token types: control, user-defined ─→ added tokens
    tokenizer.ggml.pre ─→ how a text is cut into words before bytes are paired

`quant/pretokenizers.py` has the ways of cutting that are known. A test compares the ids with llama.cpp's own.
"""

from __future__ import annotations

from typing import Any

from edgereason.errors import ModelFileError
from edgereason.quant.gguf_file import GgufModel
from edgereason.quant.pretokenizers import CUTS

_CONTROL, _USER_DEFINED = 3, 4
"""GGUF's token types."""


def tokenizer_json(model: GgufModel) -> dict[str, Any]:
    """The tokenizer of a model.

    Raises:
        ModelFileError: it is not a byte-pair vocabulary, or is cut in a way that is not known here.
    """
    kind, pre = model.text("tokenizer.ggml.model"), model.text("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in CUTS:
        raise ModelFileError(
            f"{model.path.name} has a vocabulary of the kind {kind!r}, cut as {pre or 'nobody says'!r}; "
            f"known here is gpt2, cut as {', '.join(CUTS)}"
        )
    cut = CUTS[pre]
    tokens = [str(token) for token in model.value("tokenizer.ggml.tokens")]
    types = list(model.value("tokenizer.ggml.token_type", [1] * len(tokens)))
    added = [
        {
            "id": n,
            "content": tokens[n],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[n] == _CONTROL,
        }
        for n in range(len(tokens))
        if types[n] in (_CONTROL, _USER_DEFINED)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*cut.steps, byte_level | {"use_regex": cut.uses_gpt2_words}],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut.ignores_merges,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [str(pair) for pair in model.value("tokenizer.ggml.merges", [])],
        },
    }
