"""A conversation that can think harder: turns on one prompt KV, which only ever grows by what is new.

::

    session.ask("…")          question and answer become a turn; the prompt's KV stays
    session.think_harder()    the same question again, thinking, on the KV that is there: no prompt token
    session.ask("…")          the last answer and the question are encoded behind it

The KV is the base's alone (`Prefix`): thinking is dropped, and what the adapter encoded is never used again.
A turn that fails, is stopped or abandoned leaves the session as it was, and can be asked again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Unpack, cast

from edgereason.core.chat import Prompt
from edgereason.core.checks import require, require_function
from edgereason.core.closing import Closing
from edgereason.core.types import Message, Mode, Request, Response, Stop
from edgereason.errors import BundleError, ContextOverflow, RequestError
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Routed
from edgereason.reasoning.harder import harder
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.prompt_cache import KvOrigin, PromptCache
from edgereason.reasoning.request import SAMPLING_OPTIONS, AskOptions, make_request
from edgereason.reasoning.runs import Caller, Events, Run, drive, last_response

_BUDGETS: Final = ("effort", "budget")
_INHERITED: Final = (
    *_BUDGETS,
    *("streams", "vote", "stage", "sampling"),
    *(*SAMPLING_OPTIONS, "seed", "stop", "calculator"),
)
"""Options of a turn that thinking harder takes over. Not `max_tokens`: it was meant for the first answer."""


class _Answer(NamedTuple):
    """How the last answer came about."""

    options: AskOptions
    request: Request
    routed: Routed


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that can be answered, now or never: once the conversation has gone on, it is refused.

    Attributes:
        run: begins the answer; arguments as those of `Pipeline.run` in its place.
        advised: an error of its planning, as the caller should read it.
    """

    request: Request
    run: Callable[[Batch, Caller, Prompt | None], Run]
    advised: Callable[[ContextOverflow], ContextOverflow] = lambda error: error


class Session(Closing):
    """One conversation on a model; a context manager. Made by `Model.session` and `Model.load_session`.

    Between turns it holds as many KV cells as its prompt has tokens, or memory where others want the cells.

    Args:
        pipeline: answers; its engine must outlive the session.
        messages: the conversation so far; a question at its end waits to be answered.
        origin: tells what the model is, for `save`; asked only then, since it may hash a file.
    """

    def __init__(
        self, pipeline: Pipeline, messages: Iterable[Message] = (), *, origin: Callable[[], KvOrigin]
    ) -> None:
        self._pipeline = pipeline
        self._origin = origin
        self._messages = tuple(messages)
        self._prefix = pipeline.prefix()
        self._last: _Answer | None = None
        self._is_answering = False
        self._is_closed = False

    @classmethod
    def load(cls, pipeline: Pipeline, path: Path, *, origin: Callable[[], KvOrigin]) -> Session:
        """A session as it was saved; see `Model.load_session`."""
        cache = PromptCache.read(path, origin())
        size = pipeline.engine.info.vocab_size
        if (largest := max(cache.ids, default=0)) >= size:
            raise BundleError(
                f"{path.name} holds no conversation of this model: it has the token {largest}, the "
                f"vocabulary ends at {size - 1}"
            )
        session = cls(pipeline, cache.messages, origin=origin)
        session._prefix.put_back(cache.ids, cache.kv, cache.notes)
        return session

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation: questions and answers, without the thinking."""
        return self._messages

    @property
    def prompt_tokens(self) -> int:
        """Tokens whose KV is there, and that the next turn need not encode."""
        return len(self._prefix.ids)

    def ask(self, text: str | None = None, **options: Unpack[AskOptions]) -> Response:
        """Asks the next question; without one, the question that the conversation was begun with.

        Raises:
            ContextOverflow: the conversation is too long; the message says what to drop.
            RequestError: an option can't be used, or there is no question.
        """
        return last_response(self.stream(text, **options))

    def stream(
        self,
        text: str | None = None,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        **options: Unpack[AskOptions],
    ) -> Events:
        """Like `ask`, but gives events as they happen; see `Model.stream`. Left early, it adds no turn."""
        return self._events(self.next_turn(text, options), should_stop)

    def next_turn(self, text: str | None, options: AskOptions) -> Turn:
        """The turn that `ask` answers, for those who run it on a batch of their own."""
        asks_already = bool(self._messages) and self._messages[-1].role == "user"
        if asks_already == (text is not None):
            raise RequestError(
                "the conversation ends in a question already: answer it by ask() without one"
                if asks_already
                else "there is no question: give one"
            )
        return self._turn(
            self._messages if text is None else (*self._messages, Message("user", text)), options
        )

    def think_harder(self, **options: Unpack[AskOptions]) -> Response:
        """Answers the last question again, thinking; the new answer takes the old one's place.

        By default it thinks with the next effort above what the last answer was given, or with twice its
        seconds; with the same budget, if the last answer did not think; beyond the highest effort, in twice
        the streams. Other options are the last answer's, except `max_tokens`. Of an answer that was given
        before the session began or was loaded nothing is known: it is thought about with the default effort.

        Raises:
            RequestError: nothing was asked yet, or as for `ask`.
        """
        return last_response(self.stream_harder(**options))

    def stream_harder(
        self, *, should_stop: Callable[[], bool] = lambda: False, **options: Unpack[AskOptions]
    ) -> Events:
        """Like `think_harder`, but gives events as they happen. Stopped or left, the old answer stays."""
        return self._events(self.harder_turn(options), should_stop)

    def harder_turn(self, options: AskOptions) -> Turn:
        """The turn that `think_harder` answers, for those who run it on a batch of their own."""
        asked = self._messages
        if asked and asked[-1].role == "assistant":
            asked = asked[:-1]
        if not asked or asked[-1].role != "user":
            raise RequestError("there is no question to think harder about: ask one first")
        return self._turn(asked, self._harder(options))

    def drop(self, num_turns: int) -> None:
        """Forgets the first turns, questions with their answers; a system message stays.

        Raises:
            RequestError: there are not so many, or an answer is under way.
        """
        if self._is_answering:
            raise RequestError("the session is still answering: read that stream to its end, or close it")
        require("a number of turns", num_turns, int)
        starts = _starts(self._messages)
        if not 1 <= num_turns <= len(starts):
            raise RequestError(f"there are {len(starts)} turns to drop from, got {num_turns}")
        self._messages = _dropped(self._messages, num_turns)

    def save(self, path: str | Path) -> None:
        """Writes conversation and KV to a file, for `Model.load_session` of the same model.

        Raises:
            ConfigError: it can't be written there.
        """
        require("path", path, Path)
        with self._pipeline.engine.owner.entered():
            self._save(Path(path), self._origin())

    def _save(self, path: Path, origin: KvOrigin) -> None:
        PromptCache(
            messages=self._messages,
            ids=self._prefix.ids,
            kv=self._prefix.state(),
            # Notes of a switcher that no file tells apart from another are of no use to whoever loads.
            notes=self._prefix.notes if origin.heads else {},
        ).write(path, origin)

    def close(self) -> None:
        """Gives back the cells; what has been said can still be read. Closing twice is harmless."""
        with self._pipeline.engine.owner.entered():
            self._is_closed = True
            self._prefix.close()

    def _events(self, turn: Turn, should_stop: Callable[[], bool]) -> Events:
        require_function("should_stop", should_stop)
        batch, caller = Batch(self._pipeline.engine), Caller(should_stop=should_stop)
        return drive(turn.run(batch, caller, None), batch, caller)

    def _turn(self, asked: tuple[Message, ...], options: AskOptions) -> Turn:
        if options.get("system") is not None:
            raise RequestError("a session's system message is given when it is made")
        request = make_request(asked, **options)
        run = partial(self._run, request, options, self._messages)
        return Turn(request, run, partial(self._advised, request=request))

    def _run(
        self,
        request: Request,
        options: AskOptions,
        said: tuple[Message, ...],
        batch: Batch,
        caller: Caller,
        prompt: Prompt | None,
    ) -> Run:
        """The pipeline's run on this session's KV; what it answers becomes a turn."""
        if self._is_closed:
            raise RequestError("the session is closed: begin another")
        if self._is_answering:
            raise RequestError("the session is still answering: read that stream to its end, or close it")
        if self._messages is not said:
            raise RequestError("the conversation has gone on since this was asked: ask again")
        self._is_answering = True
        try:
            run = self._pipeline.run(request, batch, caller, prefix=self._prefix, prompt=prompt)
            with closing(run):
                for event in run:
                    if isinstance(event, Routed):
                        routed = event
                    elif isinstance(event, Answered) and event.response.stop is not Stop.CANCELLED:
                        self._messages = (*request.messages, Message("assistant", event.response.text))
                        self._last = _Answer(options, request, routed)
                    yield event
        except ContextOverflow as error:
            raise self._advised(error, request) from error
        finally:
            self._is_answering = False

    def _harder(self, given: AskOptions) -> AskOptions:
        """Options of the next answer to the last question."""
        own: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        options: dict[str, object] = {"mode": Mode.THINK}
        if self._last is not None:
            options |= {name: value for name, value in self._last.options.items() if name in _INHERITED}
        if "sampling" in own:  # all of it: single values that were given for another one don't mix with it
            options = _without(options, *SAMPLING_OPTIONS)
        if "effort" in own or "budget" in own:
            options = _without(options, *_BUDGETS)
        elif self._last is not None:
            options |= harder(self._last.request, self._last.routed, self._pipeline.buckets) or {}
        return cast(AskOptions, options | own)

    def _advised(self, error: ContextOverflow, request: Request) -> ContextOverflow:
        """The same error, saying how many turns have to go; as it was if nothing but the question is left."""
        pipeline, engine = self._pipeline, self._pipeline.engine
        prompt_tokens = len(pipeline.prompt(request))

        def shorter(num_turns: int) -> Request:
            return replace(request, messages=_dropped(request.messages, num_turns))

        def freed(num_turns: int) -> int:
            return prompt_tokens - len(pipeline.prompt(shorter(num_turns)))

        def suffices(num_turns: int) -> bool:
            try:
                pipeline.room(shorter(num_turns))
            except ContextOverflow:
                return False
            return freed(num_turns) >= error.needed_tokens - error.available_tokens

        most = len(_starts(request.messages)) - 1  # the question itself stays
        num_turns = 1 + bisect_left(range(1, most + 1), True, key=suffices)
        if num_turns > most:
            return error
        turns = "turn" if num_turns == 1 else f"{num_turns} turns"
        advice = f"drop the first {turns} ({freed(num_turns):,} tokens)"
        if engine.context_tokens < engine.info.train_context_tokens:
            advice += ", or load with a larger context"
        return ContextOverflow(error.needed_tokens, error.available_tokens, "the conversation", advice)


def _without(options: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in options.items() if name not in names}


def _starts(messages: tuple[Message, ...]) -> list[int]:
    """Where turns begin: with each question."""
    return [i for i, message in enumerate(messages) if message.role == "user"]


def _dropped(messages: tuple[Message, ...], num_turns: int) -> tuple[Message, ...]:
    """The conversation without its first turns, but with what stands before them."""
    starts = [*_starts(messages), len(messages)]
    return messages[: starts[0]] + messages[starts[num_turns] :]
