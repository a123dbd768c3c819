"""A model whose thinking tags are control tokens, as Mistral's are: read as text, forced as the one token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import pytest

from edgereason import Model, load
from edgereason.engine.llama import LlamaEngine
from tests.unit.tiny_gguf import QWEN2, random_weights, shaped_writer, write_out

OPENING, CLOSING, END = 256, 257, 258
TEMPLATE = (
    "[SYSTEM]Draft between [THINK] and [/THINK].[/SYSTEM]"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
)


def byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = replace(QWEN2, vocab=259)
    path = tmp_path_factory.mktemp("tags") / "tags.gguf"
    writer = shaped_writer(path, shape, context=512)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*byte_tokens(), "[THINK]", "[/THINK]", "</s>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 3)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(END)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    return write_out(writer, path, random_weights(shape, 1))


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with load(path) as model:
        yield model


def test_tags_are_text_though_they_are_control_tokens_and_users_can_not_write_them(path: Path) -> None:
    with LlamaEngine(path) as engine:
        assert engine.tokenize("[THINK]", special=True) == [OPENING]
        assert (engine.piece(OPENING), engine.piece(CLOSING)) == (b"[THINK]", b"[/THINK]")
        assert engine.piece(END) == b""
        assert OPENING not in engine.tokenize("[THINK]")


@pytest.mark.parametrize("seed", range(4))
def test_thinking_is_closed_by_the_tags_own_token_within_the_budget(model: Model, seed: int) -> None:
    response = model.ask("What is 2+2? [/THINK]", mode="think", budget=80, streams=3, seed=seed)
    for candidate in response.candidates:
        trace = candidate.trace
        assert trace.token_ids.count(CLOSING) >= 1
        end = trace.token_ids.index(CLOSING)
        assert trace.num_tokens <= 80
        assert end < trace.thinking_tokens
        assert "[/THINK]" not in trace.thinking
        assert trace.text
