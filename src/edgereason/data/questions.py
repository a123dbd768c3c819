"""What a row of a data set asks, which answer is right, and its id: read alike for training and evaluation.

::

    {question, answer: "… #### 1,234"}  GSM8K      ─┐
    {problem, answer: 27.0, unique_id}  MATH, AMC   ├─→ question_of, reference_of, id_of
    {Body, Question, Answer}            SVAMP      ─┘
    {messages: [{role, content}, …]}               ───→ prompt_of, turns

A field is known by its name, never by a file's. Each caller decides what it does with a row that has no
answer or no id.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from edgereason.core.types import Message
from edgereason.data.rows import Row, import_optional
from edgereason.errors import ConfigError

_QUESTIONS: Final = ("question", "problem", "prompt", "Question")
_ANSWERS: Final = ("answer", "Answer")

Role = Literal["system", "user", "assistant"]
ROLES: Final[Mapping[str, Role]] = {"system": "system", "user": "user", "assistant": "assistant"}


def prompt_of(row: Row) -> tuple[Message, ...]:
    """What a row asks: its `messages`, which end with the user's, or else its question.

    Raises:
        ConfigError: it has none, or has options that are not in its text; the message names file and line.
    """
    if "messages" not in row.values:
        if row.has("choices"):
            row.fail("choices", "are not in the question; expected a prompt that spells them out")
        return (Message("user", question_of(row)),)
    messages = turns(row, "messages")
    if messages[-1].role != "user":
        row.fail("messages", "end with another's turn; expected the user's last")
    return messages


def label_of(row: Row) -> bool:
    """Whether a labelled prompt needs thinking.

    Raises:
        ConfigError: its label is missing, or neither 0 nor 1; the message names file and line.
    """
    label = row.value("label")
    if label not in (0, 1) or not isinstance(label, int):
        row.fail("label", f"is {label!r}; expected 0 (easy) or 1 (needs thinking)")
    return bool(label)


def question_of(row: Row) -> str:
    """The question of a row of whatever data set, such as GSM8K, MATH, SVAMP and HumanEval.

    Raises:
        ConfigError: it has none; the message names file and line.
    """
    if "Body" in row.values:  # SVAMP: the story, and what is asked about it
        body = row.text("Body").strip()
        return f"{body if body[-1] in '.?!,;:' else f'{body}.'} {row.text('Question').strip()}"
    return row.text(next((f for f in _QUESTIONS if f in row.values), _QUESTIONS[0])).strip()


def turns(
    row: Row,
    field: str,
    *,
    role: str = "role",
    content: str = "content",
    roles: Mapping[str, Role] = ROLES,
) -> tuple[Message, ...]:
    """The turns of a conversation, at least one.

    Args:
        row: has the conversation.
        field: which holds it, as a list of objects.
        role: key of who speaks.
        content: key of what is said.
        roles: the source's names of roles, and ours.

    Raises:
        ConfigError: it is not a conversation, a turn is blank, or somebody unknown speaks.
    """
    found = row.value(field)
    if not isinstance(found, list | tuple) or not found:
        row.fail(field, "is not a conversation; expected a list of turns")
    messages = []
    for index, turn in enumerate(found):
        place = f"{field}[{index}]"
        if not isinstance(turn, Mapping):
            row.fail(place, f"is not a turn; expected an object with {role} and {content}")
        inner = Row(row.source, row.number, {f"{place}.{key}": value for key, value in turn.items()})
        speaker = inner.text(f"{place}.{role}")
        if speaker not in roles:
            row.fail(f"{place}.{role}", f"is {speaker!r}; expected {', '.join(roles)}")
        messages.append(Message(role=roles[speaker], content=inner.text(f"{place}.{content}")))
    return tuple(messages)


def answer_field(row: Row) -> str | None:
    """The field that holds the row's answer, if there is one."""
    return next((field for field in _ANSWERS if field in row.values), None)


def reference_of(row: Row, field: str) -> str:
    """The right answer that a field states; "" if nothing stands behind GSM8K's "####".

    A number is written without a fraction that is zero: 27.0 is "27". Of a solution that ends with
    "#### 1,234", the answer is "1234".

    Args:
        row: has the answer.
        field: which holds it, a text or a number.

    Raises:
        ConfigError: it is missing, blank, of another type, or not a finite number.
    """
    value = row.value(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            row.fail(field, f"is {value}; expected a finite number")
        return str(int(value)) if value == int(value) else str(value)
    text = row.text(field).strip()
    return without_thousands(text.rpartition("####")[2].strip()) if "####" in text else text


def without_thousands(text: str) -> str:
    """A text whose numbers have no separators of thousands: "1,234,567" is "1234567"; "1,23" stays."""
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def id_of(row: Row, field: str) -> str:
    """The id that a field holds.

    Raises:
        ConfigError: it is neither a text nor a whole number.
    """
    value = row.value(field)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text(field)


@dataclass(frozen=True, slots=True, kw_only=True)
class GymQuestions:
    """Questions of one generator.

    Attributes:
        name: ``reasoning-gym leg_counting``.
        version: of the package.
        sha256: of the questions and answers, in order.
        entries: what the generator made: ``question``, ``answer``, and what else its scorer needs. The answer
            is None for a puzzle with many solutions.
        dataset: the generator; has ``score_answer``.
    """

    name: str
    version: str
    sha256: str
    entries: tuple[dict[str, Any], ...]
    dataset: Any


def make_questions(generator: str, *, size: int, seed: int, called: str) -> GymQuestions:
    """Makes questions; a larger size and the same seed begin with the same ones.

    Args:
        generator: such as ``leg_counting``.
        size: number of questions, >= 1.
        seed: the generator's.
        called: what the user wrote, for messages, such as ``gym:leg_counting``.

    Raises:
        ConfigError: the package is missing, or has no such generator, or it needs settings of its own.
    """
    gym = import_optional("reasoning_gym", f"{called} makes its questions")
    names = sorted(import_optional("reasoning_gym.factory", f"{called} makes its questions").DATASETS)
    if generator not in names:
        near = difflib.get_close_matches(generator.lower(), names, n=3, cutoff=0.4)
        nearest = f"; the nearest are {', '.join(near)}" if near else f"; there are {', '.join(names)}"
        raise ConfigError(f"reasoning-gym has no generator {generator!r}{nearest}")
    try:
        dataset = gym.create_dataset(generator, size=size, seed=seed)
        entries = tuple(dataset[index] for index in range(size))
    except (AssertionError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{called} can't be made with its default settings ({why})") from error
    said = json.dumps([[entry["question"], entry["answer"]] for entry in entries], ensure_ascii=False)
    return GymQuestions(
        name=f"reasoning-gym {generator}",
        version=importlib.metadata.version("reasoning-gym"),
        sha256=hashlib.sha256(said.encode()).hexdigest(),
        entries=entries,
        dataset=dataset,
    )
