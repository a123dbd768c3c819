"""How model families write thinking: tags, and the variables by which their templates are told to think.

The table says how thinking is marked. What a given model does, `ChatTemplate.native` finds by rendering the
model's own template: who opens thinking, and whether it can be turned off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Tags:
    """How thinking is marked.

    Attributes:
        opening: the tag, and the white space that models put behind it.
        closing: the tag, and the white space that models put behind it.
    """

    opening: str
    closing: str

    @property
    def opening_tag(self) -> str:
        return self.opening.strip()

    @property
    def closing_tag(self) -> str:
        return self.closing.strip()


TAGS: Final = (
    Tags("<think>\n", "</think>\n\n"),  # Qwen3, SmolLM3, DeepSeek-R1 and its distills, QwQ, Phi-4-reasoning
    Tags("[THINK]", "[/THINK]"),  # Mistral: Magistral, Ministral Reasoning
)
"""Tags of models that think natively."""

SWITCHES: Final = ("enable_thinking", "thinking")
"""Variables that tell templates whether to think: Qwen3 and SmolLM3; DeepSeek-V3.1 and Granite 3."""

_OPENS: Final = "|".join(rf"{re.escape(tags.opening_tag)}\s*" for tags in TAGS)
_CLOSES: Final = "|".join(rf"{re.escape(tags.closing_tag)}\s*" for tags in TAGS)
TAIL: Final = re.compile(rf"(?:{_OPENS})?(?:{_CLOSES})?\Z")
"""What the template itself writes of an answer's thinking, at the end of a prompt: opened, or left out."""
