"""Prompts that people type into an assistant, each with whether it needs thinking: made of templates.

::

    label 0, chat    talk, facts, writing, ideas, code          "merci beaucoup", "top 5 books about baking"
    label 1, think   arithmetic, money, time, algebra, …        "how much is 15% of 240", knights and knaves

`everyday.toml` has about 2,000 templates in 15 languages, grouped into families of kinds. Every template is
used before one is used again. What both labels can have is added to both alike, so that it tells nothing: a
greeting before a request, thanks behind it, lower case, a missing question mark, slips of the keyboard, and a
conversation before it. Labels say what is asked, not how it is said. The same arguments give the same rows.
"""

from __future__ import annotations

import functools
import random
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

DEFAULT_COUNT: Final = 2800

_SIDES: Final = ("chat", "think")
_OTHER_LANGUAGES: Final = "~"
_TALK: Final = "talk"
_MOST_TRIES: Final = 20

_NUMBER: Final = r"\d+(?:\.\d+)?"
_SLOT: Final = re.compile(
    rf"\{{(?:(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?:\*(?P<step>\d+))?"
    r"|(?P<name>[a-z_]+)(?::(?P<key>\w+))?|(?P<person>[A-Z]))\}"
)
_FINAL_MARK: Final = re.compile(r"(?<=[^\W\d_])[.?!。?!؟।]$")

_BEFORE: Final = (
    *(
        "Hi! ",
        "Hello, ",
        "Hey, ",
        "hey ",
        "Good morning! ",
        "Hi there. ",
        "Please ",
        "pls ",
        "Quick question: ",
    ),
    *("Question: ", "I have a question. ", "Can you help me? ", "Can you tell me: ", "help: ", "ok so "),
    *("Hey, can you help me with this one? ", "Sorry to bother you, but ", "My kid asks: ", "now: "),
    *("I was wondering: ", "Thanks! And now: ", "Could you please answer this: ", "One more thing: "),
)
_CONTEXTS: Final = (
    *("I'm preparing for a test tomorrow. ", "We are a family of four. ", "I work as a nurse. ", "I'm 35. "),
    *("My daughter is 9 and goes to school. ", "I run a small shop. ", "We meet every Tuesday at 7. "),
    *(
        "I just moved to a new town. ",
        "My colleague and I disagree. ",
        "It's for a quiz night. ",
        "Long day! ",
    ),
    *("I'm writing a blog. ", "English is not my first language. ", "I have 10 minutes. ", "We had guests. "),
)
_BEHIND: Final = (
    *(
        " Thanks!",
        " thanks",
        " Thank you in advance.",
        " please",
        " pls",
        " :)",
        "??",
        " asap",
        " Keep it short.",
    ),
    *(
        " Explain your answer.",
        " I need it today.",
        " (for a friend)",
        " in one sentence please",
        " Be brief.",
    ),
)
_REPLIES: Final = (
    *("Of course! How can I help you?", "Here you go.", "I hope this helps!", "The answer is 42.", "Sure!"),
    *(
        "You're welcome! Is there anything else?",
        "It is 17.",
        "That depends on what you like best.",
        "Paris.",
    ),
    *("Certainly. First, open the settings. Then choose your language and save.", "So x = 6.", "Hello!"),
    *("I'm sorry to hear that. Do you want to talk about it?", "They meet after 3 hours.", "Yes.", "No."),
)
_SHARE_BEFORE: Final = 0.13
_SHARE_BEHIND: Final = 0.07
_SHARE_CONTEXT: Final = 0.06
_SHARE_LOWER: Final = 0.25
_SHARE_UNMARKED: Final = 0.3
_SHARE_SLIP: Final = 0.08
_SHARE_CONVERSATION: Final = 0.08


@dataclass(frozen=True, slots=True)
class Template:
    """A line of `everyday.toml`; `source` is its family and its kind, as ``everyday-talk+greeting``."""

    text: str
    label: int
    family: str
    kind: str
    is_english: bool

    @property
    def source(self) -> str:
        """What the row's source is called."""
        return f"everyday-{self.family}+{self.kind}"


@functools.cache
def templates() -> tuple[Template, ...]:
    """All templates, in the order of the file."""
    return tuple(
        Template(line.replace(r"\n", "\n"), label, family, kind, is_english)
        for label, side in enumerate(_SIDES)
        for family, kinds in _file()[side].items()
        for kind, text in kinds.items()
        for part, is_english in zip(text.split(f"\n{_OTHER_LANGUAGES}\n"), (True, False), strict=True)
        for line in part.strip("\n").split("\n")
    )


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """So many prompts, half of each label, each of them once, in mixed order.

    Args:
        count: 2 or more.
        seed: of all that is drawn.
    """
    chance = random.Random(seed)
    made: dict[str, dict[str, Any]] = {}
    of_side = [[one for one in templates() if one.label == label] for label in range(len(_SIDES))]
    for label, known in enumerate(of_side):
        wanted = count // 2 if label else count - count // 2
        for template in _in_turn(known, chance, wanted):
            row = _fresh(template, chance, made)
            before = None
            if chance.random() < _SHARE_CONVERSATION:
                before = said(chance.choice(chance.choice(of_side)), chance)
            made[row] = _row(template, row, before, chance)
    mixed = list(made.values())
    chance.shuffle(mixed)
    for number, one in enumerate(mixed):
        yield {"id": f"everyday-{number:04}", **one}


def said(template: Template, chance: random.Random) -> str:
    """A template as somebody types it."""
    text = filled(template.text, chance)
    if template.is_english and template.family != _TALK:
        if chance.random() < _SHARE_BEFORE:
            before = chance.choice(_BEFORE)
            text = before + (text if chance.random() < 0.5 else text[0].lower() + text[1:])
        elif chance.random() < _SHARE_CONTEXT:
            text = chance.choice(_CONTEXTS) + text
        if chance.random() < _SHARE_BEHIND:
            text += chance.choice(_BEHIND)
    if chance.random() < _SHARE_UNMARKED:
        text = _FINAL_MARK.sub("", text)
    if chance.random() < _SHARE_LOWER and "\n" not in text:  # code stays as it is
        text = text.lower()
    if chance.random() < _SHARE_SLIP:
        text = _with_slip(text, chance)
    return text


def filled(text: str, chance: random.Random) -> str:
    """A template's text with something drawn for every slot."""
    lists: Mapping[str, Sequence[str]] = _file()["fill"]
    kept: dict[str, str] = {}
    used: set[str] = set()

    def draw(slot: re.Match[str]) -> str:
        if slot["low"] is not None:
            return _number(slot["low"], slot["high"], int(slot["step"] or 1), chance)
        key = slot["person"] or slot["key"]
        if key in kept:
            return kept[key]
        values = lists[slot["name"] or "name"]
        fresh = [value for value in values if value not in used] or values
        value = chance.choice(fresh)
        used.add(value)
        if key is not None:
            kept[key] = value
        return value

    return _SLOT.sub(draw, text)


def _number(low: str, high: str, step: int, chance: random.Random) -> str:
    if "." in low:
        return f"{chance.uniform(float(low), float(high)):.{len(low.partition('.')[2])}f}"
    first = -(-int(low) // step) * step
    return str(chance.randrange(first, int(high) + 1, step))


def _in_turn(known: Sequence[Template], chance: random.Random, count: int) -> Iterator[Template]:
    """Templates in mixed order, each once before one comes again."""
    left: list[Template] = []
    for _ in range(count):
        if not left:
            left = list(known)
            chance.shuffle(left)
        yield left.pop()


def _fresh(template: Template, chance: random.Random, made: Mapping[str, Any]) -> str:
    """A prompt that is not there yet; a short template that was used up gets another name for it."""
    for _ in range(_MOST_TRIES):
        text = said(template, chance)
        if text not in made:
            return text
    while text in made:
        text += chance.choice("!.) ")
    return text


def _row(template: Template, text: str, before: str | None, chance: random.Random) -> dict[str, Any]:
    about = {"label": template.label, "source": template.source}
    if before is None:
        return {"prompt": text, **about}
    reply = chance.choice(_REPLIES)
    turns = [("user", before), ("assistant", reply), ("user", text)]
    return {"messages": [{"role": role, "content": content} for role, content in turns], **about}


def _with_slip(text: str, chance: random.Random) -> str:
    """A letter of a long word is left out, doubled, or swapped with the next."""
    places = [found.start() + 1 for found in re.finditer(r"[A-Za-z]{5,}", text)]
    if not places:
        return text
    at = chance.choice(places) + chance.randrange(3)
    slips = (text[at] * 2, "", text[at + 1 : at + 2] + text[at])
    way = chance.randrange(len(slips))
    return text[:at] + slips[way] + text[at + (2 if way == 2 else 1) :]


@functools.cache
def _file() -> dict[str, Any]:
    return tomllib.loads((resources.files("edgereason.train.data") / "everyday.toml").read_text("utf-8"))
