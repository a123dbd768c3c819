"""A vocabulary of SentencePiece that puts a blank in front of every text: none of ours gets one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from edgereason import load
from edgereason.core.chat import ANSWER_PREFIX, CLOSING, LEAD_IN, OPENING, ChatTemplate
from edgereason.core.types import Message
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ContextOverflow
from tests.unit.tiny_gguf import LLAMA, random_weights, shaped_writer, write_out

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
PIECES = [
    "▁",
    "▁W",
    "Wh",
    "▁Wh",
    "at",
    "▁What",
    "▁is",
    "is",
    "s",
    "i",
    "W",
    "h",
    "a",
    "t",
    "[",
    "]",
    "▁[",
    "▁4",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *PIECES]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    shape = replace(LLAMA, vocab=len(tokens))
    path = tmp_path_factory.mktemp("spaces") / "spaces.gguf"
    writer = shaped_writer(path, shape, context=512)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [float(len(piece)) for piece in PIECES])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * len(PIECES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(TEMPLATE)
    return write_out(writer, path, random_weights(shape, 0))


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(path) as engine:
        yield engine


@pytest.mark.parametrize(
    "text",
    [
        OPENING, CLOSING, ANSWER_PREFIX, LEAD_IN, "\n", "What is", " What is", "  What", "Wh", "Whats\n\n",
        "4", " 4", "", " ", "Größe × 2", "\x01", "\x01\x01 What", "[What]",
    ],
)  # fmt: skip
def test_a_text_is_its_own_pieces_and_no_blank_before_them(engine: LlamaEngine, text: str) -> None:
    assert b"".join(map(engine.piece, engine.tokenize(text))).decode() == text


def test_a_prompt_is_what_the_template_writes_without_blanks_at_its_seams(engine: LlamaEngine) -> None:
    info = engine.info
    template = ChatTemplate(info.chat_template, info.bos_text, info.eos_text, add_bos=info.add_bos)
    ids = template.encode([Message("user", "What is 4</s>")], engine.tokenize)
    # llama.cpp itself puts the one blank behind each control token, as the vocabulary was trained.
    assert ids[0] == 1
    assert ids.count(2) == 1
    assert b"".join(map(engine.piece, ids)).decode() == " [user] What is 4</s> [assistant]\n"


def test_a_model_with_such_a_vocabulary_chats_and_thinks(path: Path) -> None:
    with load(path) as model:
        for mode in ("chat", "think"):
            assert model.ask("What is 4?", mode=mode, budget=64, max_tokens=64).usage.all_streams_tokens > 0


@pytest.mark.parametrize("context_tokens", [1, 100, 128, 255, 256, 257, 300, 500, 511, 512])
def test_a_context_is_as_large_as_was_asked_for_not_as_llama_rounds_it(
    path: Path, context_tokens: int
) -> None:
    with LlamaEngine(path, context_tokens=context_tokens) as engine:
        assert engine.context_tokens == context_tokens
        with pytest.raises(ContextOverflow, match=f"and {context_tokens} are available"):
            engine.reserve(cells=context_tokens + 1, sequences=1)
        with engine.reserve(cells=context_tokens, sequences=1):
            sequence = engine.new_sequence()
            assert engine.encode(sequence, [3] * context_tokens)
            assert sequence.length == context_tokens
