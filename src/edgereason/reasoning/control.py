r"""The budget of one stream, token by token: what to keep, what to force, when to end.

::

             closing in the text                      end of turn, or the limit
    THINKING ───────────────────────────────→ ANSWER ───────────────────────────→ done
       │  limit − reserve reached, or end of turn   ▲  │ the room left is just a prefix's, nothing concluded
       └────── force  \n? closing prefix ───────────┘  └─ force  \n prefix (once)

Both rules force an answer while there is still room for one, so a thinking stream never spends its budget
without saying what it found. The limit counts every token, sampled or forced, but not the end of turn. A
deadline is a limit that is told anew with every token: as many as there is time for.

The prefix is the answer prefix of `core/chat.py`. Where there is a calculator, results of arithmetic in
thinking are forced as well (`calculator.py`), as long as closing and answer still fit behind them.

Source: DESIGN, Seams and Budgets. The paper cuts at the limit and appends the answer prefix outside of it
(section 5.3); Deviation: here closing, answer prefix and answer are inside the limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from edgereason.core.chat import (
    ANSWER_PREFIX,
    CLOSING_TAG,
    MAY_OPEN,
    NATIVE_OPENING,
    ClosingFinder,
    NativeThinking,
    Seams,
    closing_of,
)
from edgereason.core.types import HINT_MARGIN, Stop, reserve_tokens
from edgereason.errors import RequestError
from edgereason.reasoning.calculator import Calculator, Number, number_instead_of
from edgereason.reasoning.pace import Deadline

ANSWER_TOKENS: Final = 8
"""Room that a forced answer gets at the least, and thinking too."""

_CONCLUDED: Final = re.compile(r"answer\s*(?:is|:)|\\boxed|####", re.IGNORECASE)


class Phase(StrEnum):
    """Where a stream is."""

    THINKING = "thinking"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Forced:
    """A piece that is fed instead of drawn; a number, which a calculator found, ends nothing."""

    ids: tuple[int, ...]
    text: str
    phase: Phase
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a drawn token: keep it or not, feed `forced` after it, or end.

    Where anything but a number is forced, an answer is owed. In thinking its last piece is the answer prefix.
    """

    keep: bool
    forced: tuple[Forced, ...] = ()
    done: bool = False

    @property
    def seams(self) -> tuple[Forced, ...]:
        """What is forced to end something."""
        return tuple(piece for piece in self.forced if not piece.is_number)

    @property
    def forced_ids(self) -> tuple[int, ...]:
        return tuple(token for piece in self.forced for token in piece.ids)

    @property
    def forced_text(self) -> str:
        return "".join(piece.text for piece in self.forced)


class Control(Protocol):
    """A stream's budget machine.

    Attributes:
        closing_tokens: most tokens of what is forced on it to end its thinking.
        is_hurried: set to have thinking ended at the next token, whatever is left; it is no cut.
        closing_tag: what ends its thinking.
    """

    closing_tag: str
    stop: Stop
    is_hurried: bool
    thinking_tokens: int
    answer_tokens: int

    @property
    def phase(self) -> Phase: ...

    @property
    def closing_tokens(self) -> int: ...

    def on_token(self, text: str, *, is_end: bool, mid_character: bool = False) -> Verdict:
        """Takes in a drawn token and the text that it completed.

        Args:
            text: may be empty.
            is_end: the token ends the turn.
            mid_character: the token left a character unfinished.
        """
        ...


class Limit:
    """What a stream has left: tokens of a fixed limit, and steps until a deadline if there is one.

    Args:
        limit_tokens: most tokens of the stream.
        cut: what it is called when they run out: the budget, or `max_tokens`. A deadline is the budget.
        deadline: when the request must have ended.
    """

    def __init__(self, limit_tokens: int, cut: Stop, deadline: Deadline | None) -> None:
        self._limit_tokens = limit_tokens
        self._cut = cut
        self._deadline = deadline

    def left(self, used_tokens: int, forced_tokens: int = 0) -> int:
        """Tokens left, `forced_tokens` among them, which take less time than drawn ones."""
        left_tokens = self._limit_tokens - used_tokens
        if self._deadline is None:
            return left_tokens
        return min(left_tokens, self._deadline.left_steps(forced_tokens) + forced_tokens)

    def expected(self, used_tokens: int) -> int:
        """Tokens that the stream will have spent in the end, should it spend all it may."""
        return used_tokens + self.left(used_tokens)

    def cause(self, used_tokens: int) -> Stop:
        """What ran out first."""
        fixed = self._limit_tokens - used_tokens
        return self._cut if self._deadline is None or fixed <= self.left(used_tokens) else Stop.BUDGET


class ChatControl:
    """The chat route: answer until the model ends its turn or the limit is reached; see `Limit`.

    What a natively reasoning model thinks is part of what it says, and of its limit. Where it thinks on until
    a quarter of the limit is left, or ends its turn, its thinking is closed by force, so that it answers.
    A deadline does not end an answer before anything is said. A turn in which nothing is said is *empty*.

    Args:
        limit_tokens: most tokens of the stream.
        cut: what to call it when the limit ends thinking or answer.
        deadline: when the request must have ended.
        seams: what writes the closing; without it nothing is ever forced, as draws to learn from must be.
        is_open: whether the model's own template opened thinking.
        calculator: what knows results of arithmetic, if they are forced.
    """

    def __init__(
        self,
        limit_tokens: int,
        cut: Stop = Stop.LENGTH,
        deadline: Deadline | None = None,
        *,
        seams: Seams | None = None,
        is_open: bool = False,
        calculator: Calculator | None = None,
    ) -> None:
        self._seams = seams
        self._calculator = calculator
        self._limit = Limit(limit_tokens, cut, deadline)
        self._limit_tokens = limit_tokens
        self.closing_tag = seams.tags.closing_tag if seams else CLOSING_TAG
        self._native = NativeThinking(is_open=is_open, closing_tag=self.closing_tag)
        self._has_begun = self._has_said = self._is_asked = False
        self._is_inside_line = False
        self.is_open = is_open
        self.is_hurried = False
        self.was_closed = False
        """Whether its own thinking was closed by force."""
        self.stop = Stop.NATURAL
        self.thinking_tokens = 0
        self.answer_tokens = 0

    @property
    def phase(self) -> Phase:
        return Phase.ANSWER if self._native.finder is None else Phase.THINKING

    @property
    def closing_tokens(self) -> int:
        if self._seams is None or self._native.finder is None:
            return 0
        return len(self._seams.tokenize(self._closing(is_in_code=True)))

    def on_token(self, text: str, *, is_end: bool, mid_character: bool = False) -> Verdict:
        if is_end:
            return self._end()
        if (number := number_instead_of(self._calculator, text, self._fits)) is not None:
            return self._computed(number)
        self.answer_tokens += 1
        self._hear(text)
        self._is_inside_line = mid_character or (
            self._is_inside_line if not text else not text.endswith("\n")
        )
        if self.phase is Phase.THINKING and self._is_due():
            cause = Stop.NATURAL if self.is_hurried else self._limit.cause(self.answer_tokens)
            if (forced := self._forced(self._closing(), Phase.THINKING)) is not None:
                self.stop, self.was_closed = cause, True
                return Verdict(keep=True, forced=(forced,))
        if self._limit.left(self.answer_tokens) > 0:
            return Verdict(keep=True)
        if not self._has_said and self.answer_tokens < self._limit_tokens:  # only the time is over
            return Verdict(keep=True)
        self.stop = self._limit.cause(self.answer_tokens)
        return Verdict(keep=True, done=True)

    def _fits(self, num_tokens: int) -> bool:
        """Whether so many tokens leave room: for a token more, or for closing and answer."""
        owed_tokens = self.closing_tokens + ANSWER_TOKENS if self.closing_tokens else 0
        return self._limit.left(self.answer_tokens + num_tokens, self.closing_tokens) > owed_tokens

    def _computed(self, number: Number) -> Verdict:
        """A result in the place of what was drawn."""
        self.answer_tokens += len(number.ids)
        self._hear(number.text)
        self._is_inside_line = True
        return Verdict(keep=False, forced=(Forced(*number, self.phase, is_number=True),))

    def _end(self) -> Verdict:
        """The end of the turn; a model that thought and has not answered is asked for its answer once."""
        forced = None
        if self.phase is Phase.THINKING and self._has_begun:
            forced = self._forced(self._closing(), Phase.THINKING)
        elif self._has_begun and not (self._has_said or self._native.head or self._is_asked):
            self._is_asked = True
            forced = self._forced("\n", Phase.ANSWER)
        if forced is not None:
            return Verdict(keep=False, forced=(forced,))
        if not self._has_begun:
            self.stop = Stop.EMPTY
        elif (
            self.phase is Phase.THINKING and self._seams is not None
        ):  # the limit leaves no room for an answer
            self.stop = self._limit.cause(self.answer_tokens)
        return Verdict(keep=False, done=True)

    def _hear(self, text: str) -> None:
        self._has_begun = self._has_begun or bool(text.strip())
        self._has_said = bool(self._native.push(text).strip()) or self._has_said

    def _is_due(self) -> bool:
        """Whether what is left is no more than is held back to close and to answer, or the answer is due."""
        if self.is_hurried:
            return True
        closing_tokens, limit_tokens = self.closing_tokens, self._limit.expected(self.answer_tokens)
        wanted_tokens = max(limit_tokens // 4, closing_tokens + ANSWER_TOKENS)
        held_back = min(wanted_tokens, max(limit_tokens // 2, closing_tokens + 1))
        return self._limit.left(self.answer_tokens, closing_tokens) <= held_back

    def _closing(self, *, is_in_code: bool | None = None) -> str:
        """What ends thinking where it stands: a tag inside a fence would be text."""
        finder = self._native.finder
        assert finder is not None
        is_in_code = finder.is_in_code if is_in_code is None else is_in_code
        return "\n" * (self._is_inside_line or is_in_code) + "```\n" * is_in_code + f"{finder.closing}\n\n"

    def _forced(self, text: str, phase: Phase) -> Forced | None:
        """A piece that is fed, if a token of an answer fits behind it."""
        if self._seams is None:
            return None
        ids = tuple(self._seams.tokenize(text))
        if self.answer_tokens + len(ids) >= self._limit_tokens:
            return None
        self.answer_tokens += len(ids)
        self._hear(text)
        return Forced(ids, text, phase)


class ThinkControl:
    """The think route under a hard limit.

    Args:
        seams: ids of closing and answer prefix.
        limit_tokens: most tokens of the stream.
        cut: what to call it when the limit ends thinking or answer: the budget, or `max_tokens`.
        deadline: when the request must have ended; where it leaves too little, thinking ends at once.
        calculator: what knows results of arithmetic, if they are forced.

    Raises:
        RequestError: the limit leaves less than 8 tokens to think beside the reserve.
    """

    def __init__(
        self,
        seams: Seams,
        limit_tokens: int,
        cut: Stop = Stop.BUDGET,
        deadline: Deadline | None = None,
        *,
        calculator: Calculator | None = None,
    ) -> None:
        self._seams = seams
        self._calculator = calculator
        self._limit = Limit(limit_tokens, cut, deadline)
        if limit_tokens < least_tokens(seams):
            raise RequestError(
                f"a limit of {limit_tokens} tokens is too small: closing and answer need "
                f"{reserve(seams, limit_tokens)} of them; the minimum is {least_tokens(seams)}"
            )
        self.phase = Phase.THINKING
        self.is_hurried = False
        self.stop = Stop.NATURAL
        self.thinking_tokens = 0
        self.answer_tokens = 0
        self.closing_tag = seams.tags.closing_tag
        self.closing_tokens = _forced_tokens(seams)
        self._text = ""
        self._prefix_given = False
        self._mid_character = False

    @property
    def _used_tokens(self) -> int:
        return self.thinking_tokens + self.answer_tokens

    def on_token(self, text: str, *, is_end: bool, mid_character: bool = False) -> Verdict:
        self._mid_character = mid_character
        return self._thinking(text, is_end) if self.phase is Phase.THINKING else self._answer(text, is_end)

    def _thinking(self, text: str, is_end: bool) -> Verdict:
        if is_end:  # it stopped by itself, so this is no cut; the answer is still owed
            return self._force_closing(keep=False)
        if (number := number_instead_of(self._calculator, text, self._fits)) is not None:
            self.thinking_tokens += len(number.ids)
            self._text += number.text
            return Verdict(keep=False, forced=(Forced(*number, Phase.THINKING, is_number=True),))
        self.thinking_tokens += 1
        # The tag may begin in any of the tokens before: look back by its length.
        tail = self._text[-len(self.closing_tag) :] + text
        self._text += text
        if self.closing_tag in tail:
            self.phase = Phase.ANSWER
            self._text = tail.partition(self.closing_tag)[2]
            return Verdict(keep=True)
        if self.is_hurried:
            return self._force_closing(keep=True)
        if not self._fits(0):
            self.stop = self._limit.cause(self._used_tokens)
            return self._force_closing(keep=True)
        return Verdict(keep=True)

    def _fits(self, num_tokens: int) -> bool:
        """Whether thinking may go on behind so many tokens, and still be closed and answered."""
        used_tokens = self._used_tokens + num_tokens
        held_back = reserve(self._seams, self._limit.expected(used_tokens))
        return self._limit.left(used_tokens, self.closing_tokens) > held_back

    def _answer(self, text: str, is_end: bool) -> Verdict:
        prefix_tokens = len(self._seams.newline) + len(self._seams.answer_prefix)
        if is_end:
            owed = not self._text.strip() and not self._prefix_given
            return (
                self._force_prefix(keep=False)
                if owed and self._limit.left(self._used_tokens, prefix_tokens) > prefix_tokens
                else Verdict(False, done=True)
            )
        self.answer_tokens += 1
        self._text += text
        if self._limit.left(self._used_tokens) <= 0:
            self.stop = self._limit.cause(self._used_tokens)
            return Verdict(keep=True, done=True)
        left = self._limit.left(self._used_tokens, prefix_tokens)
        if prefix_tokens < left <= prefix_tokens + ANSWER_TOKENS and not self._is_concluded():
            self.stop = self._limit.cause(self._used_tokens)
            return self._force_prefix(keep=True)
        return Verdict(keep=True)

    def _is_concluded(self) -> bool:
        # A short answer is its own conclusion; only one that rambles to the limit needs the answer prefix.
        is_short = self.answer_tokens <= ANSWER_TOKENS
        return self._prefix_given or is_short or bool(_CONCLUDED.search(self._text))

    def _force_closing(self, *, keep: bool) -> Verdict:
        inside_line = self._is_inside_line()
        closing = Forced(
            self._seams.forced_end(inside_line=inside_line),
            ("\n" if inside_line else "") + self._seams.tags.closing,
            Phase.THINKING,
        )
        prefix = Forced(self._seams.answer_prefix, ANSWER_PREFIX, Phase.ANSWER)
        self.phase = Phase.ANSWER
        self.thinking_tokens += len(closing.ids)
        self.answer_tokens += len(prefix.ids)
        self._text, self._prefix_given = ANSWER_PREFIX, True
        return Verdict(keep, (closing, prefix))

    def _force_prefix(self, *, keep: bool) -> Verdict:
        newline = self._is_inside_line() and bool(self._text.strip())
        prefix = Forced(
            (self._seams.newline if newline else ()) + self._seams.answer_prefix,
            ("\n" if newline else "") + ANSWER_PREFIX,
            Phase.ANSWER,
        )
        self.answer_tokens += len(prefix.ids)
        self._text, self._prefix_given = self._text + prefix.text, True
        return Verdict(keep, (prefix,))

    def _is_inside_line(self) -> bool:
        return self._mid_character or (bool(self._text) and not self._text.endswith("\n"))


class TextSplitter:
    """Splits a stream's text into thinking and answer as it comes, and ends the answer before a stop string.

    The parts are those of `core.chat.split_thinking`; the closing and its line breaks go with the thinking.
    What may be the beginning of a stop string is held until more is known. Of several strings the one that
    is complete first counts; of those that end with the same character, the longest. So it makes no
    difference in which pieces the text comes. Forced answer text is searched as well.

    Args:
        thinks: whether the text begins with thinking.
        stop: strings that end the answer, none of them empty.
        is_chat: whether it is a chat answer, which a natively reasoning model may begin by thinking; split
            as by `core.chat.split_chat`.
        closing_tag: what ends thinking that is not opened by the model.
    """

    def __init__(
        self,
        *,
        thinks: bool = False,
        stop: Sequence[str] = (),
        is_chat: bool = False,
        closing_tag: str = CLOSING_TAG,
    ) -> None:
        self._stop = stop
        self._is_chat = is_chat
        self._may_open = is_chat
        self._head = ""
        """What may be the beginning of the model's own opening tag."""
        self._closing_tag = closing_tag
        self._finder = ClosingFinder(closing_tag)
        self._opening_chars = 0
        self._is_thinking = thinks
        self._skips_breaks = thinks
        self._tail = ""
        """The end of what came: of thinking, what may begin the closing; of the answer, what is held."""
        self.is_stopped = False
        """Whether a stop string was found; nothing more is let through then."""

    def push(self, text: str) -> tuple[str, str]:
        """Thinking and answer of the next piece, as far as they can be said for certain."""
        if self.is_stopped:
            return "", ""
        if self._may_open:
            text = self._after_opening(text)
        thinking = ""
        if self._is_thinking and self._is_chat:
            skipped, self._opening_chars = self._opening_chars, 0
            start = self._finder.num_chars - skipped
            end = self._finder.push(text[skipped:])
            if end is None:
                return text, ""
            self._is_thinking = False
            answer = text[end + len(self._finder.closing) - start :]
            thinking, text = text.removesuffix(answer), answer
        elif self._is_thinking:
            before, tag, answer = (self._tail + text).partition(self._closing_tag)
            if not tag:  # it may begin in any of the tokens before: look back by its length
                self._tail = before[-len(self._closing_tag) + 1 :]
                return text, ""
            self._is_thinking, self._tail = False, ""
            thinking, text = text.removesuffix(answer), answer
        if self._skips_breaks:
            answer = text.lstrip("\n")
            thinking, text = thinking + text.removesuffix(answer), answer
            self._skips_breaks = not answer
        return thinking, self._until_stop(text)

    def flush(self) -> str:
        """The answer that was held back, now that nothing comes any more."""
        head, self._head, self._may_open = self._head, "", False
        held = "" if self._is_thinking else self._until_stop(head) + self._tail
        self._tail = ""
        return held

    def _after_opening(self, text: str) -> str:
        """The text, once it is known whether it opens thinking by the model's own tag; nothing before."""
        head, self._head = self._head + text, ""
        if not head.strip() and any(string[0].isspace() for string in self._stop):
            return head  # a stop string may be complete
        if opening := NATIVE_OPENING.match(head):
            self._is_thinking = self._skips_breaks = True
            self._finder, self._opening_chars = ClosingFinder(closing_of(opening[0])), opening.end()
        elif MAY_OPEN.fullmatch(head):
            self._head = head
            return ""
        self._may_open = False
        return head

    def _until_stop(self, text: str) -> str:
        text, self._tail = self._tail + text, ""
        found = [(text.index(string) + len(string), -len(string)) for string in self._stop if string in text]
        if found:
            self.is_stopped = True
            end, length = min(found)
            return text[: end + length]
        held = max((_overlap(text, string) for string in self._stop), default=0)
        self._tail = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that `string` begins with, and goes on after."""
    most = min(len(text), len(string) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(string[:length])), 0)


def reserve(seams: Seams, limit_tokens: int) -> int:
    """Tokens held back to close and to answer: DESIGN's rule, or what this vocabulary needs."""
    return max(reserve_tokens(limit_tokens), _forced_tokens(seams) + ANSWER_TOKENS)


def least_tokens(seams: Seams) -> int:
    """Smallest limit that leaves 8 tokens to think beside its reserve."""
    return reserve(seams, 0) + ANSWER_TOKENS


def _forced_tokens(seams: Seams) -> int:
    """Tokens of a forced end, a newline before it included."""
    return len(seams.newline) + len(seams.closing) + len(seams.answer_prefix)


def bucket_for(limit_tokens: int, buckets: tuple[int, ...], margin: float = HINT_MARGIN) -> int | None:
    """The hint for a limit: the largest trained bucket B with (1 + m)·B ≤ limit, else the smallest.

    Source: DESIGN, Budgets.

    Returns:
        None where nothing was trained with hints.
    """
    fitting = [bucket for bucket in buckets if (1 + margin) * bucket <= limit_tokens]
    return max(fitting) if fitting else min(buckets, default=None)
