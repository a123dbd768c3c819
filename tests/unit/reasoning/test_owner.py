"""One model in several threads: a thread's request is its own until it is over, and nobody breaks in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgereason.core.types import Response
from edgereason.engine.base import Owner
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import NoRoomNow, RequestError
from edgereason.reasoning.async_model import AsyncModel
from edgereason.reasoning.events import Answered
from edgereason.reasoning.model import Model

IN_USE = "another thread's request"


def in_thread(act: Callable[[], Any]) -> Any:
    """What an act returns, or the error that it raises, in a thread of its own."""

    def outcome() -> Any:
        try:
            return act()
        except Exception as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(outcome).result(10)


def model(**options: Any) -> Model:
    return Model(ScriptedEngine(["2+2 is 4.\n</think>\n\nThe final answer is 4."], **options))


@pytest.mark.parametrize(
    "act",
    [
        lambda m, _s: m.ask("?"),
        lambda m, _s: m.ask("?", mode="think", streams=4),
        lambda m, _s: next(m.stream("?")),
        lambda m, _s: m.with_heads().ask("?"),
        lambda m, _s: m.session().ask("?"),
        lambda _m, s: s.ask("?"),
        lambda _m, s: s.think_harder(),
        lambda _m, s: s.save("talk.kv"),
        lambda _m, s: s.close(),
        lambda m, _s: m.close(),
        lambda m, _s: AsyncModel(m),
    ],
)
def test_while_a_thread_has_a_request_others_are_refused_and_it_goes_on(act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = model()
    session = one.session()
    session.ask("2+2?")
    events = one.stream("2+2?", mode="think")
    next(events)
    refused = in_thread(lambda: act(one, session))
    assert isinstance(refused, RequestError)
    assert IN_USE in str(refused)
    assert "AsyncModel" in str(refused)
    *_, last = events
    assert isinstance(last, Answered)
    assert last.response.answer == "4"
    assert in_thread(lambda: one.ask("2+2?", mode="think")).answer == "4"  # it is over: others may


@pytest.mark.parametrize("end", ["read", "answered", "close", "forgotten", "failed"])
def test_a_request_that_is_over_is_nobodys(end):
    one = model()
    events = one.stream("2+2?", mode="think") if end != "failed" else one.stream("2" * 100_000)
    if end == "failed":
        with pytest.raises(RequestError):
            next(events)
    else:
        next(events)
    if end == "read":
        list(events)
    elif end == "answered":
        while not isinstance(next(events), Answered):
            pass
    elif end == "close":
        events.close()
        events.close()
    elif end == "forgotten":
        del events
    assert isinstance(in_thread(lambda: one.ask("2+2?")), Response)
    assert one.engine.used_cells == 0


def test_a_stream_that_was_never_read_is_nobodys():
    one = model()
    events = one.stream("2+2?")
    assert isinstance(in_thread(lambda: one.ask("2+2?")), Response)
    events.close()
    with pytest.raises(StopIteration):
        next(events)


def test_events_may_be_read_in_other_threads_one_after_the_other():
    events, answers = model().stream("2+2?", mode="think"), []
    while not answers:
        event = in_thread(lambda: next(events))
        if isinstance(event, Answered):
            answers.append(event.response.answer)
        assert not isinstance(event, Exception), event
    assert answers == ["4"]


def test_four_threads_at_once_get_answers_or_refusals_and_lose_no_cell():
    one, outcomes = model(), []
    begin = threading.Barrier(4)

    def ask() -> None:
        begin.wait(10)
        for _ in range(25):
            try:
                outcomes.append(one.ask("2+2?", mode="think", streams=2).answer)
            except RequestError as error:
                outcomes.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 100
    assert "4" in outcomes
    assert all(outcome == "4" or IN_USE in outcome for outcome in outcomes)
    assert one.engine.used_cells == 0


def test_two_streams_of_one_thread_are_told_what_helps():
    one = model()
    with one.stream("2+2?", mode="think") as first:
        next(first)
        with pytest.raises(NoRoomNow, match="close them first; AsyncModel") as refused:
            next(one.stream("x" * 5_000, mode="think", streams=8))
        assert "larger context" not in str(refused.value)
    assert one.ask("x" * 5_000, mode="think", streams=8).answer == "4"


def test_an_owner_counts_requests_and_calls_apart():
    owner = Owner()
    owner.enter()
    owner.enter()
    owner.leave()
    assert isinstance(in_thread(owner.enter), RequestError)
    with owner.using(), owner.using():  # a callback may call again
        assert isinstance(in_thread(lambda: owner.using().__enter__()), RequestError)
    owner.leave()
    assert in_thread(owner.enter) is None
