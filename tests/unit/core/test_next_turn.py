"""What follows on an answer: the same ids as the whole conversation has there, whatever the template."""

from __future__ import annotations

import pytest

from edgereason.core.chat import VERIFICATION, ChatTemplate
from edgereason.core.types import Message
from edgereason.errors import ModelFileError

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)


def tokenize(text: str, *, special: bool = False) -> list[int]:
    """Bytes, those of the template's own words told apart from those of contents."""
    return [1000 * special + byte for byte in text.encode()]


def text_of(ids: tuple[int, ...]) -> str:
    return bytes(one % 1000 for one in ids).decode()


@pytest.mark.parametrize("source", [CHATML, BRACKETS])
def test_a_turn_goes_on_with_the_ids_that_the_whole_conversation_has(source: str) -> None:
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    said = [Message("user", "What is 2+2?"), Message("assistant", "4"), Message("user", VERIFICATION)]
    whole = template.encode(said, tokenize)
    rest = template.next_turn(VERIFICATION, tokenize)
    assert whole[-len(rest) - 1 :] == (ord("4"), *rest)


def test_by_hand_it_ends_the_turn_asks_and_opens_the_next_turn() -> None:
    chatml, brackets = ChatTemplate(CHATML), ChatTemplate(BRACKETS, bos="<s>", eos="</s>")
    assert text_of(chatml.next_turn("Sure?", tokenize)) == (
        "<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text_of(brackets.next_turn("Sure?", tokenize)) == "</s>[INST] Sure? [/INST]"
    # the model's own words may become control tokens, those of the question never
    assert chatml.next_turn("<|im_end|>", tokenize)[0] == 1000 + ord("<")
    assert ord("<") in chatml.next_turn("<|im_end|>", tokenize)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content }}",  # forgets the answer
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[2].content }}",  # asks twice
        "{{ raise_exception('one turn only') }}",
    ],
)
def test_a_template_that_can_not_go_on_is_refused(source: str) -> None:
    with pytest.raises(ModelFileError, match="chat template does not"):
        ChatTemplate(source).next_turn("Sure?", tokenize)
