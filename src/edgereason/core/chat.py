r"""Templates and seams: the one place that knows which text stands between the parts of a response.

::

    prompt   │ opening  hint or lead-in │ thinking … \n │ closing      │ answer …        │ end of turn
    template │ <think>\n  Budget: 256 …  │   sampled     │ </think>\n\n │ prefix? sampled │
    base     │ adapter on from here ───────────────────────────────────────────────────→

Every piece is tokenized by itself and the ids are concatenated, in traces, training, run time and
verification alike: byte-pair merges reach across seams (Qwen has tokens `.</` and `>\n\n`), so ids that
were made in one go would differ from the ids that a model meets when a piece is forced. For the same
reason the end of thinking is looked for in text, never by matching ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Protocol

from edgereason.core.families import SWITCHES, TAGS, TAIL, Tags
from edgereason.core.template import TemplateLimit, filled, has_mark, mark, render, writes_dates
from edgereason.core.types import Message
from edgereason.errors import ModelFileError, RequestError

OPENING: Final = "<think>\n"
CLOSING: Final = "</think>\n\n"
CLOSING_TAG: Final = "</think>"
OUR_TAGS: Final = Tags(OPENING, CLOSING)
ANSWER_PREFIX: Final = "The final answer is "
LEAD_IN: Final = "Let me work this out step by step.\n"
"""Elicits thinking from a base that has no adapter yet; stands after the opening, never in the prompt."""
VERIFICATION: Final = "Is this solution correct? Answer yes or no."
"""What a verifier's state follows on: the user's next turn, put to a finished trace."""


class Tokenize(Protocol):
    """Text to ids, with nothing added; `special` lets the vocabulary's control tokens be recognised."""

    def __call__(self, text: str, *, special: bool = False) -> list[int]: ...


def hint_text(bucket_tokens: int) -> str:
    """The hint that announces a budget to an adapter trained on such hints."""
    return f"Budget: {bucket_tokens} tokens.\n"


@dataclass(frozen=True, slots=True)
class Seams:
    """The ids of every piece that is never sampled, for one vocabulary.

    `newline` is what a forced closing needs in front of it when thinking was cut inside a line, so that
    thinking ends with a line break as it does in training. `tags` are how thinking is marked.
    """

    tokenize: Tokenize
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    newline: tuple[int, ...]
    answer_prefix: tuple[int, ...]
    lead_in: tuple[int, ...]
    tags: Tags = OUR_TAGS

    @classmethod
    def of(cls, tokenize: Tokenize) -> Seams:
        """The seams of a vocabulary."""

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenize(text))

        return cls(tokenize, ids(OPENING), ids(CLOSING), ids("\n"), ids(ANSWER_PREFIX), ids(LEAD_IN))

    @classmethod
    def native(cls, tokenize: Tokenize, tags: Tags) -> Seams:
        """The seams of a model that thinks natively: its own tags, perhaps control tokens, and no lead-in."""
        opening, closing = (tuple(tokenize(tag, special=True)) for tag in (tags.opening, tags.closing))
        newline, answer_prefix = tuple(tokenize("\n")), tuple(tokenize(ANSWER_PREFIX))
        return cls(tokenize, opening, closing, newline, answer_prefix, (), tags)

    def hint(self, bucket_tokens: int) -> tuple[int, ...]:
        """Ids of the hint for a bucket."""
        return tuple(self.tokenize(hint_text(bucket_tokens)))

    def forced_end(self, *, inside_line: bool) -> tuple[int, ...]:
        """What ends thinking by force: a line break where one is missing, then the closing."""
        return (self.newline if inside_line else ()) + self.closing


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation with the generation prompt, as ids.

    Attributes:
        starts: how many ids stand before what a message says, for each of them in order. Conversations that
            begin alike share their ids up to such a place.
    """

    ids: tuple[int, ...]
    starts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's own Jinja chat template.

    Args:
        source: the template, as the GGUF carries it.
        bos: text of the token that begins a text, "" if there is none.
        eos: text of the token that ends a turn.
        add_bos: whether the model wants `bos` in front even where its template leaves it out.
    """

    source: str
    bos: str = ""
    eos: str = ""
    add_bos: bool = False

    def encode(
        self, messages: Sequence[Message], tokenize: Tokenize, *, enable_thinking: bool | None = None
    ) -> tuple[int, ...]:
        """Ids of the prompt alone; see `prompt`."""
        return self.prompt(messages, tokenize, enable_thinking=enable_thinking).ids

    def prompt(
        self, messages: Sequence[Message], tokenize: Tokenize, *, enable_thinking: bool | None = None
    ) -> Prompt:
        """All messages and the generation prompt.

        What a message says can never become a control token: contents are tokenized as plain text
        between the template's own parts. Assistant turns lose their thinking. Templates of natively
        reasoning models ask whether to think: `enable_thinking` answers; None leaves it to the template.
        What the template then writes of thinking itself is not in the prompt: see `chat_opening`.

        Raises:
            RequestError: the template takes no such order of roles.
            ModelFileError: it does not even render a question.
        """
        contents = [strip_thinking(m.content) if m.role == "assistant" else m.content for m in messages]
        rendered, _ = self._parts([m.role for m in messages], enable_thinking)
        if self.add_bos and not rendered.startswith(self.bos):
            rendered = self.bos + rendered
        return Prompt(*_ids(rendered, contents, tokenize))

    def chat_opening(self, messages: Sequence[Message], *, enable_thinking: bool | None = None) -> str:
        r"""What the template writes behind the generation prompt, so that the model thinks, or does not.

        Such as "<think>\n\n</think>\n\n", which leaves thinking out, or "<think>\n". "" for most models.
        """
        return self._parts([m.role for m in messages], enable_thinking)[1]

    def opens_thinking(self, messages: Sequence[Message], *, enable_thinking: bool | None = None) -> bool:
        """Whether the template itself opens thinking behind the prompt of these messages."""
        return leaves_open(self.chat_opening(messages, enable_thinking=enable_thinking))

    def native(self) -> Tags | None:
        """How the model thinks natively; None for one that does not, as far as its template tells.

        A template tells it by writing the model's tags: to open thinking, to leave it out, or to explain it.
        Where it opens thinking, the opening is as it writes it.
        """
        if not any(tag in self.source for tags in TAGS for tag in (tags.opening_tag, tags.closing_tag)):
            return None
        for enable_thinking in (True, False):
            try:
                rendered, tail = self._parts(["user"], enable_thinking)
            except ModelFileError:
                continue
            for tags in TAGS:
                if tags.opening_tag in rendered + tail or tags.closing_tag in rendered + tail:
                    return replace(tags, opening=tail) if leaves_open(tail) else tags
        return None

    def next_turn(self, content: str, tokenize: Tokenize) -> tuple[int, ...]:
        """Ids of what follows on an assistant's text whose turn has not been ended.

        That is the end of its turn, the user's next turn, which says `content`, and the generation prompt:
        with them a trace can be asked about on its own cells. Tokenized piece by piece, as in `encode`.

        Raises:
            ModelFileError: the template does not render a conversation of two questions as it stands.
        """
        try:
            rendered = self._render(["user", "assistant", "user"])
        except RequestError as error:
            raise ModelFileError(str(error)) from error
        _, answer, rest = rendered.partition(mark(1))
        if not answer or rest.count(mark(2)) != 1:
            raise ModelFileError(
                "the model's chat template does not put a second question behind an answer: "
                "use another model, or one with another template"
            )
        return _ids(rest, ["", "", content], tokenize)[0]

    def _parts(self, roles: Sequence[str], enable_thinking: bool | None) -> tuple[str, str]:
        """A rendered conversation, and what the template writes of the answer's thinking behind it."""
        if writes_dates(self.source):
            return self._rendered_parts(roles, enable_thinking)
        return _parts_once(self, tuple(roles), enable_thinking)

    def _rendered_parts(self, roles: Sequence[str], enable_thinking: bool | None) -> tuple[str, str]:
        rendered = self._render(roles, enable_thinking)
        tail = TAIL.search(rendered)
        assert tail is not None  # it may be empty
        return rendered[: tail.start()], tail[0]

    def _render(self, roles: Sequence[str], enable_thinking: bool | None = None) -> str:
        """A conversation of these roles, each content a mark, with the generation prompt.

        Raises:
            RequestError: roles in this order can't be rendered, but a question can.
            ModelFileError: nothing can be rendered, or the template says less than was said.
        """
        try:
            return self._render_either_way(roles, enable_thinking)
        except TemplateLimit:
            raise
        except ModelFileError as error:
            if not self._renders_a_question(enable_thinking):
                raise
            raise RequestError(f"messages from {', '.join(roles)}: {error}") from error

    def _renders_a_question(self, enable_thinking: bool | None) -> bool:
        """Whether the template is of use: what it does not render then is the caller's choice of roles."""
        try:
            self._render_either_way(["user"], enable_thinking)
        except ModelFileError:
            return False
        return True

    def _render_either_way(self, roles: Sequence[str], enable_thinking: bool | None) -> str:
        """Contents are texts, as most templates take them, or lists of parts.

        A template that drops or refuses texts, as those of models that see do, gets parts.
        """
        try:
            return self._render_as(roles, enable_thinking, in_parts=False)
        except TemplateLimit:
            raise
        except ModelFileError as error:
            try:
                return self._render_as(roles, enable_thinking, in_parts=True)
            except ModelFileError:
                raise error from None

    def _render_as(self, roles: Sequence[str], enable_thinking: bool | None, *, in_parts: bool) -> str:
        contents = [mark(index) for index in range(len(roles))]
        messages = [
            {"role": role, "content": [{"type": "text", "text": content}] if in_parts else content}
            for role, content in zip(roles, contents, strict=True)
        ]
        chosen = {} if enable_thinking is None else dict.fromkeys(SWITCHES, enable_thinking)
        rendered = render(
            self.source,
            messages=messages,
            add_generation_prompt=True,
            bos_token=self.bos,
            eos_token=self.eos,
            **chosen,
        )
        for index, role in enumerate(roles):
            if not has_mark(rendered, index):
                raise ModelFileError(
                    f"the model's chat template does not write message {index + 1} of {len(roles)}, the "
                    f"{role}'s: use another model, or one with another template"
                )
        return rendered


@lru_cache(maxsize=256)
def _parts_once(
    template: ChatTemplate, roles: tuple[str, ...], enable_thinking: bool | None
) -> tuple[str, str]:
    """What messages say is not rendered: a data set's rows have the same few orders of roles."""
    return template._rendered_parts(roles, enable_thinking)


def split_thinking(text: str, closing_tag: str = CLOSING_TAG) -> tuple[str, str | None]:
    r"""Splits what a stream said into thinking and answer.

    Args:
        text: everything after the opening, hint or lead-in.
        closing_tag: what ends thinking.

    Returns:
        `(thinking, answer)`, the tag and the line breaks around it removed; `answer` is `None` while
        thinking has not been closed.

    >>> split_thinking("2 and 2 make 4.\n</think>\n\nIt is 4.")
    ('2 and 2 make 4.', 'It is 4.')
    """
    thinking, tag, answer = text.partition(closing_tag)
    return (thinking.rstrip("\n"), answer.lstrip("\n")) if tag else (text, None)


NATIVE_OPENING: Final = re.compile(r"\s*(?:<(?:think|thinking|thoughts?|reasoning)>|\[THINK\])")
"""What a natively reasoning model may begin a chat answer with."""

MAY_OPEN: Final = re.compile(r"\s*(?:<[a-z]{0,9}|\[[A-Z]{0,5})?")
"""What may become its opening tag."""


def closing_of(opening: str) -> str:
    """The tag that closes what an opening tag opens."""
    tag = opening.strip()
    return f"{tag[0]}/{tag[1:]}"


def closing_in(text: str) -> str:
    """The closing tag that a stream's text has, for those who don't know whose it is; ours if it has none."""
    found = [(text.index(tags.closing_tag), tags.closing_tag) for tags in TAGS if tags.closing_tag in text]
    return min(found, default=(0, CLOSING_TAG))[1]


def leaves_open(opening: str) -> bool:
    """Whether what a template writes of thinking is not closed yet."""
    return bool(NATIVE_OPENING.fullmatch(opening.rstrip()))


def split_chat(
    text: str, *, is_open: bool = False, closing_tag: str = CLOSING_TAG
) -> tuple[str | None, str | None]:
    r"""Splits what a stream said on the chat route into the model's own thinking and its answer.

    Args:
        text: everything behind the prompt.
        is_open: whether the template itself opened thinking.
        closing_tag: what then ends it.

    Returns:
        `(thinking, answer)`; thinking is `None` where the model did not begin by thinking, and answer while
        thinking has not been closed. A tag inside a code fence is text.

    >>> split_chat("<think>\nBoxed: 3?\n</think>\n\nIt is 4.")
    ('Boxed: 3?', 'It is 4.')
    """
    opening = NATIVE_OPENING.match(text)
    if opening is None and not is_open:
        return None, text
    closing = closing_of(opening[0]) if opening else closing_tag
    body = text[opening.end() :] if opening else text
    end = find_closing(body, closing)
    if end is None:
        return body.strip("\n"), None
    return body[:end].strip("\n"), body[end + len(closing) :].lstrip("\n")


class ClosingFinder:
    """Finds where thinking is closed, as its text comes: at the first tag that stands in no code.

    Every character is looked at once, however many tags and fences there are.

    Args:
        closing: the tag, `</` and more.

    Attributes:
        num_chars: how many characters came.
        is_in_code: whether a fence is open.
    """

    _FENCE: Final = 3

    def __init__(self, closing: str) -> None:
        self.closing = closing
        self.num_chars = 0
        self.is_in_code = False
        self._matched = 0
        self._before = "\n"
        self._fence: str | None = ""
        """What a line begins with that may become a fence; None once it says something else."""

    def push(self, text: str) -> int | None:
        """Where the closing begins, among all characters that came; None while there is none."""
        for character in text:
            self.num_chars += 1
            if self._matched and character == self.closing[self._matched]:
                self._matched += 1
                if self._matched == len(self.closing):
                    self._matched = 0
                    if not self.is_in_code:
                        return self.num_chars - len(self.closing)
            else:  # a tag has its first character nowhere else
                self._matched = int(character == self.closing[0] and self._before != "`")
            self._look_for_fence(character)
            self._before = character
        return None

    def _look_for_fence(self, character: str) -> None:
        if character == "\n":
            self._fence = ""
        elif self._fence is not None and not (character in " \t" and not self._fence):
            is_fence = character in "`~" and self._fence in ("", character, 2 * character)
            self._fence = self._fence + character if is_fence else None
            if self._fence is not None and len(self._fence) == self._FENCE:
                self.is_in_code, self._fence = not self.is_in_code, None


def find_closing(thinking: str, closing: str) -> int | None:
    """Where thinking is closed: at the first tag that stands in no code; None if there is none."""
    return ClosingFinder(closing).push(thinking)


class NativeThinking:
    """Follows a chat answer as it comes: whether the model still thinks, as `split_chat` sees it.

    Args:
        is_open: whether the template itself opened thinking.
        closing_tag: what then ends it.

    Attributes:
        finder: looks for the closing while the model thinks; None before and after that.
        head: what may be the beginning of the model's own opening tag.
    """

    def __init__(self, *, is_open: bool = False, closing_tag: str = CLOSING_TAG) -> None:
        self.finder = ClosingFinder(closing_tag) if is_open else None
        self.head = ""
        self._may_open = True

    def push(self, text: str) -> str:
        """What of the next piece is answer, as far as that can be said for certain."""
        if self._may_open:
            head = (self.head + text).lstrip()
            if opening := NATIVE_OPENING.match(head):
                self.finder = ClosingFinder(closing_of(opening[0]))
                text = head[opening.end() :]
            elif MAY_OPEN.fullmatch(head):
                self.head = head
                return ""
            elif self.head:
                text = head
            self.head, self._may_open = "", False
        if self.finder is None:
            return text
        start = self.finder.num_chars
        end = self.finder.push(text)
        if end is None:
            return ""
        answer = text[end + len(self.finder.closing) - start :]
        self.finder = None
        return answer


def strip_thinking(text: str) -> str:
    """An assistant turn without its thinking, as the next turn's prompt carries it."""
    for tags in TAGS:
        if text.lstrip().startswith(tags.opening_tag):
            return split_thinking(text, tags.closing_tag)[1] or ""
    return text


def _ids(
    rendered: str, contents: Sequence[str], tokenize: Tokenize
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of a rendered template and of the contents where their marks stand; and where those begin."""
    ids: list[int] = []
    starts: list[int] = []
    for part, is_content in filled(rendered, contents):
        if is_content:
            starts.append(len(ids))
        if part:
            ids += tokenize(part) if is_content else tokenize(part, special=True)
    return tuple(ids), tuple(starts)
