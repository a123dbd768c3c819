"""Vocabularies in Hugging Face's form: llama.cpp's ids are those of `tokenizers`, or they are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import generate_merges

from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ModelFileError
from edgereason.quant.huggingface.convert import Conversion

TEXTS = (
    "Sara reads 15 pages a day for 6 days; that's 90.\n\n\n  What's 1234567 / 3?\t(≈ 411,522)",
    "def f(x):\n    return x**2  # ünïcode, 日本語, русский\r\n\r\n",
    "I'LL DON'T we've   spaces   and\n \n newlines, camelCase HTTPServer",
    "<think>\nLet me work.\n</think>\n\nThe final answer is 3.",
    "🤔🤔 and a very very long                        run",
)
MARKED = "<|user|>Hi there<|end|>\n<|assistant|>"
SPECIAL = ("<|user|>", "<|assistant|>", "<|end|>")
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As Meta, Mistral and OpenAI publish them."""
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern: str) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES])


CUTS = {
    "llama-bpe": (split(LLAMA3), True),
    "dbrx": (split(LLAMA3), False),
    "tekken": (split(TEKKEN), True),
    "gpt-4o": (split(GPT4O), False),
    "smollm": (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        False,
    ),
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
}


def byte_pairs(cut: Any, *, ignores_merges: bool) -> Tokenizer:
    """A vocabulary that was trained on the texts."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignores_merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS] * 3, trainer)
    tokenizer.add_special_tokens([*SPECIAL])
    return tokenizer


def pieces(*, prefix: bool) -> Tokenizer:
    """SentencePiece's vocabulary of the texts' pieces, with pairs as transformers makes them of scores."""
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Replace(" ", "▁")
    learned.train_from_iterator([*TEXTS] * 3, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    by_id = sorted(learned.get_vocab(), key=learned.get_vocab().__getitem__)
    runs = ["▁" * n for n in range(2, 13)]
    ordinary = [*runs, *(one for one in by_id if one not in runs)]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *ordinary]
    vocab = {name: n for n, name in enumerate(names)}
    scores = {name: 0.0 if name in (*runs, *names[:259]) else float(-n) for name, n in vocab.items()}
    merges = generate_merges(vocab, scores, names[:3])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *space] if prefix else space)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *SPECIAL])
    return tokenizer


def saved(folder: Path, tokenizer: Tokenizer) -> Path:
    """A checkpoint with this vocabulary."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ids_in_llama_cpp(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    target = folder.with_suffix(".gguf")
    Conversion(folder).write(target, "ab" * 32)
    with LlamaEngine(target) as engine:
        assert engine.info.chat_template == "{{ messages }}"
        return [engine.tokenize(text, special=True) for text in texts]


@pytest.mark.parametrize("name", CUTS)
def test_byte_pair_vocabularies_give_the_same_ids(name: str, tmp_path: Path) -> None:
    cut, ignores_merges = CUTS[name]
    tokenizer = byte_pairs(cut, ignores_merges=ignores_merges)
    texts = (*TEXTS, MARKED)
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert ids_in_llama_cpp(saved(tmp_path / "hf", tokenizer), texts) == expected
    assert sum(map(len, expected)) < 0.8 * sum(len(text.encode()) for text in texts)  # pairs are joined


def test_sentencepieces_vocabularies_give_the_same_ids(tmp_path: Path) -> None:
    # GIVEN runs of spaces with one score, as published vocabularies have them
    tokenizer = pieces(prefix=False)
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in (*TEXTS[:4], MARKED)]
    assert ids_in_llama_cpp(saved(tmp_path / "hf", tokenizer), (*TEXTS[:4], MARKED)) == expected
    assert len(expected[0]) < 0.8 * len(TEXTS[0])


def test_a_space_in_front_is_llama_cpps_where_the_vocabulary_has_one(tmp_path: Path) -> None:
    for prefix in (False, True):
        tokenizer = pieces(prefix=prefix)
        expected = tokenizer.encode(TEXTS[0], add_special_tokens=False).ids
        vocabulary = Conversion(saved(tmp_path / str(prefix), tokenizer)).vocabulary
        assert vocabulary.adds_space is prefix
        assert (tokenizer.id_to_token(expected[0]) or "").startswith("▁") is prefix


def test_kinds_of_tokens_and_what_is_filled_up(tmp_path: Path) -> None:
    # GIVEN an ordinary added token, one that only looks ordinary, and an embedding with more rows
    tokenizer = pieces(prefix=False)
    tokenizer.add_tokens([AddedToken("<tool>▁x", special=False), AddedToken("<|looks|>", special=False)])
    count = tokenizer.get_vocab_size()
    folder = saved(tmp_path / "hf", tokenizer)
    file = json.loads((folder / "tokenizer.json").read_text())
    last = max(file["added_tokens"], key=lambda one: one["id"])
    file["added_tokens"].remove(last)
    (folder / "tokenizer.json").write_text(json.dumps(file))
    # WHEN
    vocabulary = Conversion(folder).vocabulary
    # THEN normal 1, unknown 2, control 3, user-defined 4, unused 5, byte 6
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert (types["<unk>"], types["<s>"], types["<0x41>"], types["▁▁"]) == (2, 3, 6, 1)
    assert types["<tool> x"] == 4
    assert vocabulary.tokens[count - 1] == f"[PAD{count - 1}]"
    assert types[f"[PAD{count - 1}]"] == 5


def test_pairs_that_scores_can_not_say_are_refused(tmp_path: Path) -> None:
    # GIVEN pairs in an order of their own; pairs that lack one which makes a token
    folder = saved(tmp_path / "hf", pieces(prefix=False))
    whole = json.loads((folder / "tokenizer.json").read_text())
    merges = whole["model"]["merges"]
    several = next(
        pair
        for n, pair in enumerate(merges)
        if n > len(merges) // 2 and "".join(pair) == "".join(merges[n + 1])
    )
    for changed, words in (
        ([several, *(one for one in merges if one != several)], "in an order of their own"),
        ([one for one in merges if one != several], "never, and is a token"),
    ):
        file = whole | {"model": whole["model"] | {"merges": changed}}
        (folder / "tokenizer.json").write_text(json.dumps(file))
        with pytest.raises(ModelFileError, match=words):
            Conversion(folder)


def test_bytes_that_are_missing_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "hf", pieces(prefix=False))
    text = (folder / "tokenizer.json").read_text().replace("<0x0A>", "<0x0a>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFileError, match="not a token for each of the 256 bytes"):
        Conversion(folder)
