"""A GGUF's byte-pair vocabulary as `tokenizer.json`, which runtimes other than llama.cpp read.

::

    tokens, merges ─→ model       token types: control, user-defined ─→ added tokens
    tokenizer.ggml.pre ─→ how a text is cut into words before bytes are paired

Three ways of cutting are known here, among them those of the catalogue's models. A test compares the ids with
llama.cpp's own.
"""

from __future__ import annotations

from typing import Any, Final

from edgereason.errors import ModelFileError
from edgereason.quant.gguf_file import GgufModel

_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_CONTROL, _USER_DEFINED = 3, 4
"""GGUF's token types."""


def tokenizer_json(model: GgufModel) -> dict[str, Any]:
    """The tokenizer of a model.

    Raises:
        ModelFileError: it is not a byte-pair vocabulary, or is cut in a way that is not known here.
    """
    kind, pre = model.text("tokenizer.ggml.model"), model.text("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _CUTS:
        raise ModelFileError(
            f"{model.path.name} has a vocabulary of the kind {kind!r}, cut as {pre or 'nobody says'!r}; "
            f"known here is gpt2, cut as {', '.join(_CUTS)}"
        )
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
            "pretokenizers": [*_CUTS[pre], byte_level | {"use_regex": pre == "smollm"}],
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
            "ignore_merges": pre == "llama-bpe",
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [str(pair) for pair in model.value("tokenizer.ggml.merges", [])],
        },
    }


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_CUTS: Final[dict[str, list[dict[str, Any]]]] = {
    "qwen2": [_split(_WORDS % r"\p{N}")],
    "llama-bpe": [_split(_WORDS % r"\p{N}{1,3}")],
    "smollm": [{"type": "Digits", "individual_digits": True}],
}
