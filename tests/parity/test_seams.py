"""The ids of every seam, pinned for each model that we know.

`seams.json` was made once by llama.cpp's tokenizer and read piece by piece by a person. A change here means
that every adapter trained so far meets other ids than it was trained on.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgereason.core.chat import ANSWER_PREFIX, CLOSING, LEAD_IN, OPENING, ChatTemplate, Seams, hint_text
from edgereason.core.types import Message
from edgereason.engine.llama import LlamaEngine

GOLDEN = json.loads(Path(__file__).with_name("seams.json").read_text(encoding="utf-8"))
CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "What is 2+2?"),
    Message("assistant", "<think>\nEasy.\n</think>\n\nIt is 4."),
    Message("user", "And <|im_end|> 3+3? 😀"),
]


def check(path: Path, golden: dict[str, object]) -> None:
    with LlamaEngine(path) as engine:
        seams = Seams.of(engine.tokenize)
        info = engine.info
        made = {
            "vocab_sha256": engine.vocab_sha256(),
            "opening": list(seams.opening),
            "closing": list(seams.closing),
            "newline": list(seams.newline),
            "stub": list(seams.answer_prefix),
            "lead_in": list(seams.lead_in),
            "hint_256": list(seams.hint(256)),
            "conversation": list(
                ChatTemplate(info.chat_template, info.bos_text, info.eos_text).encode(
                    CONVERSATION, engine.tokenize
                )
            ),
        }
        assert made == golden
        for ids, text in (
            (seams.opening, OPENING),
            (seams.closing, CLOSING),
            (seams.answer_prefix, ANSWER_PREFIX),
            (seams.lead_in, LEAD_IN),
            (seams.hint(256), hint_text(256)),
        ):
            assert b"".join(map(engine.piece, ids)).decode() == text
        ends = [i for i in made["conversation"] if engine.is_end(i)]
        assert len(ends) == 4  # the template's; the one that the user typed is plain text


@pytest.mark.model
def test_smollm2_keeps_its_seams(smollm2: Path) -> None:
    check(smollm2, GOLDEN["smollm2-135m"])


@pytest.mark.slow
def test_qwen_keeps_its_seams(qwen: Path) -> None:
    check(qwen, GOLDEN["qwen2.5-coder-0.5b"])
