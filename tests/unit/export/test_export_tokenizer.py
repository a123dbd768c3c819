"""The vocabulary in Hugging Face's form against llama.cpp's own ids."""

from __future__ import annotations

import json

import pytest
from tiny_gguf import QWEN2, random_weights, write_gguf

from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ModelFileError
from edgereason.export.tokenizer import tokenizer_json
from edgereason.quant.gguf_file import GgufModel

TEXTS = (
    "Sara reads 15 pages a day for 6 days; that's 90.\n\n\n  What's 1234567 / 3?\t(≈ 411,522)",
    "def f(x):\n    return x**2  # ünïcode, 日本語, русский\r\n\r\n",
    "I'LL DON'T we've   spaces   and\n \n newlines ",
    "<think>\nLet me work.\n</think>\n\nThe final answer is 3.",
)
MARKED = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def same_ids(path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(GgufModel(path))))
    with LlamaEngine(path) as engine:
        for text in TEXTS:
            ids = engine.tokenize(text)
            assert ours.encode(text, add_special_tokens=False).ids == ids
            assert ours.decode(ids, skip_special_tokens=False) == text
        assert ours.encode(MARKED, add_special_tokens=False).ids == engine.tokenize(MARKED, special=True)


@pytest.mark.torch  # tokenizers comes with transformers
def test_a_tiny_vocabulary_gives_llama_cpps_ids(tiny):
    same_ids(tiny.base)


@pytest.mark.torch
def test_smollm2_gives_llama_cpps_ids(smollm2):
    same_ids(smollm2)


@pytest.mark.slow
@pytest.mark.torch
def test_qwen_gives_llama_cpps_ids(qwen):
    same_ids(qwen)


def test_a_vocabulary_cut_in_an_unknown_way_is_refused(tmp_path):
    model = GgufModel(write_gguf(tmp_path / "f.gguf", QWEN2, random_weights(QWEN2, 7)))
    with pytest.raises(ModelFileError, match=r"known here is gpt2, cut as qwen2, llama-bpe, dbrx, smollm"):
        tokenizer_json(model)
