"""A conversation line by line: questions are asked, and lines that begin with / do something with it.

::

    What is 17 × 23?      asks
    /think                answers the last question again, thinking; with a question: that one
    /harder               with more of everything
    /budget 5s            from the next answer on
    /save talk.kv         conversation and KV, for /load
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from edgereason.cli.options import checked
from edgereason.core.checks import require, whole_number
from edgereason.core.types import Effort, Message, Mode, Response, Stop
from edgereason.errors import RequestError
from edgereason.reasoning.events import Event, Notice
from edgereason.reasoning.model import Model
from edgereason.reasoning.request import AskOptions, make_request
from edgereason.reasoning.runs import Events

Show = Callable[[Iterator[Event]], Response]
"""Lets an answer happen in view of the user."""

_BUDGETS: Final = ("effort", "budget")
_OF_ONE_ANSWER: Final = ("mode", "max_tokens", "system")


@dataclass(frozen=True, slots=True)
class Command:
    """What a line may do instead of asking."""

    arguments: str
    help: str
    run: Callable[[Talk, str], None]


class Talk:
    """The conversation, and what its next answers are to be like.

    Args:
        model: answers; the talk closes its session, not the model.
        options: settings to begin with, and the system message of every conversation.
        show: shows an answer as it happens.
        say: tells the user something in a line or more.
    """

    def __init__(self, model: Model, options: AskOptions, *, show: Show, say: Callable[[str], None]) -> None:
        self._model = model
        self._system = options.get("system")
        self._options = _without(options, "system")
        self._asked_with: AskOptions = {}
        self._show = show
        self._say = say
        self._should_stop: Callable[[], bool] = lambda: False
        self._session = model.session(system=self._system)
        self._noticed: set[str] = set()
        self.is_over = False

    def take(self, line: str, should_stop: Callable[[], bool]) -> None:
        """Does what a line says; an answer ends as soon as it should stop.

        Raises:
            EdgeReasonError: it can't be done; the conversation is as it was.
        """
        self._should_stop = should_stop
        line = checked(line.rstrip(), "the line")
        if not line.startswith("/"):
            if line:
                self._ask(line, self._options)
            return
        name, _, argument = line.partition(" ")
        name = name.lower()
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            raise RequestError(f"no command {name}: " + (f"did you mean {near[0]}?" if near else "see /help"))
        COMMANDS[name].run(self, argument.strip())

    def close(self) -> None:
        """Gives back what the conversation holds."""
        self._session.close()

    def _ask(self, question: str, options: AskOptions) -> None:
        self._answer(self._session.stream(question, should_stop=self._should_stop, **options))

    def _answer(self, events: Events) -> None:
        with events:
            response = self._show(self._without_old_notices(events))
        if response.stop is Stop.CANCELLED:
            self._say("stopped, so that the answer is not part of the conversation")
        else:
            self._asked_with = self._options

    def _without_old_notices(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events, each notice once in a conversation: the library has it with every answer."""
        for event in events:
            if isinstance(event, Notice):
                if event.text in self._noticed:
                    continue
                self._noticed.add(event.text)
            yield event

    def _think(self, question: str) -> None:
        options = _thinking(self._options)
        if question:
            self._ask(question, options)
        else:
            options = _without(options, *_OF_ONE_ANSWER)
            self._answer(self._session.stream_harder(should_stop=self._should_stop, **options))

    def _harder(self, argument: str) -> None:
        _require_none(argument, "/harder")
        changed = {
            name: value for name, value in self._options.items() if self._asked_with.get(name) != value
        }
        options = _without(cast(AskOptions, changed), *_OF_ONE_ANSWER)
        self._answer(self._session.stream_harder(should_stop=self._should_stop, **options))

    def _set_budget(self, text: str) -> None:
        self._set("budget", text)

    def _set_streams(self, text: str) -> None:
        self._set("streams", whole_number("/streams", text, "takes a number"))

    def _set_mode(self, text: str) -> None:
        self._set("mode", text)

    def _set(self, name: str, value: object) -> None:
        options = cast(AskOptions, {**self._options, name: value})
        make_request("?", **options)  # refuses what is out of range, before it is set
        self._options = options
        self._say(f"{name} {value}")

    def _save(self, file: str) -> None:
        path = _path(file, "/save")
        self._session.save(path)
        self._say(f"saved to {path}")

    def _load(self, file: str) -> None:
        path = _path(file, "/load")
        loaded = self._model.load_session(path)
        self._session.close()
        self._session = loaded
        self._asked_with = {}
        self._say(f"{_count(loaded.messages)} from {path}")

    def _clear(self, argument: str) -> None:
        _require_none(argument, "/clear")
        self._session.close()
        self._session = self._model.session(system=self._system)
        self._asked_with = {}
        self._say("a new conversation")

    def _drop(self, text: str) -> None:
        self._session.drop(whole_number("/drop", text, "takes a number of turns"))
        self._say(f"{_count(self._session.messages)} left")

    def _help(self, _argument: str) -> None:
        rows = [(f"{name} {command.arguments}".rstrip(), command.help) for name, command in COMMANDS.items()]
        width = max(len(usage) for usage, _ in rows)
        self._say("\n".join(f"{usage:{width}}  {text}" for usage, text in rows))

    def _quit(self, argument: str) -> None:
        _require_none(argument, "/quit")
        self.is_over = True


COMMANDS: Final[dict[str, Command]] = {
    "/think": Command("[QUESTION]", "answer the last question again, thinking; or another one", Talk._think),
    "/harder": Command("", "the last question again, with a higher effort or more streams", Talk._harder),
    "/budget": Command("TOKENS|SECONDSs", "what an answer may spend, as 400 or 5s", Talk._set_budget),
    "/streams": Command("N", "how many streams think in parallel", Talk._set_streams),
    "/mode": Command("auto|chat|think", "who decides whether to think", Talk._set_mode),
    "/drop": Command("N", "forget the first N turns", Talk._drop),
    "/clear": Command("", "begin again", Talk._clear),
    "/save": Command("FILE", "write the conversation, its KV included, to a file", Talk._save),
    "/load": Command("FILE", "go on with a conversation from a file", Talk._load),
    "/help": Command("", "this", Talk._help),
    "/quit": Command("", "leave, as Ctrl-D does", Talk._quit),
}


def _thinking(options: AskOptions) -> AskOptions:
    """The settings, but for an answer that thinks."""
    budget = {name: value for name, value in options.items() if name in _BUDGETS and value != Effort.NONE}
    rest = _without(options, *_BUDGETS)
    return cast(AskOptions, {**rest, **(budget or {"effort": Effort.MEDIUM}), "mode": Mode.THINK})


def _without(options: AskOptions, *names: str) -> AskOptions:
    left: dict[str, Any] = {name: value for name, value in options.items() if name not in names}
    return cast(AskOptions, left)


def _require_none(argument: str, command: str) -> None:
    if argument:
        raise RequestError(f"{command} takes nothing, got {argument!r}")


def _path(file: str, command: str) -> Path:
    if not file:
        raise RequestError(f"{command} takes a file")
    try:
        path = Path(file).expanduser()
    except RuntimeError as error:
        raise RequestError(f"{command} takes a file; there is no home directory for {file!r}") from error
    require(f"{command} FILE", path, Path)
    return path


def _count(messages: tuple[Message, ...]) -> str:
    num_turns = sum(message.role == "user" for message in messages)
    return "1 turn" if num_turns == 1 else f"{num_turns} turns"
