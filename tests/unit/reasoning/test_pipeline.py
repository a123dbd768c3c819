"""Requests on the scripted engine: routes, budgets, forks, votes, and what is left behind (nothing)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgereason.core.chat import Seams
from edgereason.core.types import (
    Budget,
    Effort,
    Message,
    Mode,
    Request,
    Response,
    Route,
    Sampling,
    Stop,
    Vote,
    effort_tokens,
)
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ContextOverflow, EngineError, RequestError
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.control import Phase, least_tokens
from edgereason.reasoning.events import Answered, Ended, Event, Notice, Routed, Tallied, Text
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import Caller, drive, drive_many

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
FIVE = "2+2 is 5, I think.\n</think>\n\nThe final answer is 5."
ENDLESS = "hm " * 500 + "\n</think>\n\nThe final answer is 6."


def request(question: str = "What is 2+2?", **options: object) -> Request:
    options.setdefault("mode", Mode.THINK)
    options.setdefault("budget", Budget(limit_tokens=100))
    return Request(messages=(Message("user", question),), **options)  # type: ignore[arg-type]


def events_of(engine: ScriptedEngine, asked: Request, **parts: object) -> list[Event]:
    batch = Batch(engine)
    return list(drive(Pipeline(engine, **parts).run(asked, batch), batch))  # type: ignore[arg-type]


def ask(engine: ScriptedEngine, asked: Request, **parts: object) -> Response:
    last = events_of(engine, asked, **parts)[-1]
    assert isinstance(last, Answered)
    return last.response


class FixedReader:
    def __init__(self, p: float) -> None:
        self.rows = 0
        self._p = p

    def push(self, states: np.ndarray) -> None:
        self.rows += len(states)

    def p_think(self) -> float:
        return self._p

    def state(self) -> dict[str, np.ndarray]:
        return {"rows": np.array([self.rows], np.float32)}


class FixedSwitcher:
    threshold = 0.5
    layer = -2

    def __init__(self, p: float) -> None:
        self.made = FixedReader(p)

    def reader(self, state: object = None) -> FixedReader:
        return self.made


class ListVerifier:
    """Hands out scores in the order in which it is asked."""

    layers = ()
    prompt_ids = (63, 63)

    def __init__(self, *scores: float) -> None:
        self._scores = list(scores)
        self.batches: list[int] = []

    def score(self, states: np.ndarray) -> np.ndarray:
        self.batches.append(len(states))
        return np.array([self._scores.pop(0) for _ in states], np.float32)


def test_thinking_and_answer_are_split_and_counted() -> None:
    response = ask(ScriptedEngine([FOUR]), request())
    assert (response.route, response.answer, response.stop) == (Route.THINK, "4", Stop.NATURAL)
    assert response.thinking == "2+2 is 4."
    assert response.text == "The final answer is 4."
    assert response.usage.thinking_tokens == len("2+2 is 4.\n</think>")
    assert response.usage.thinking_tokens + response.usage.answer_tokens == len(FOUR)


def test_chat_is_one_plain_decode_without_thinking() -> None:
    engine = ScriptedEngine(["It is 4."])
    response = ask(engine, request(mode=Mode.CHAT, budget=None))
    assert (response.route, response.thinking, response.text) == (Route.CHAT, None, "It is 4.")
    assert response.answer == "4"


def test_a_stream_that_never_closes_is_cut_within_its_budget_and_still_answers() -> None:
    response = ask(ScriptedEngine([ENDLESS]), request())
    assert response.stop is Stop.BUDGET
    assert response.answer == "6"
    assert response.candidates[0].trace.num_tokens <= 100


def test_an_answer_that_ends_by_itself_is_told_from_one_that_is_cut() -> None:
    asked = request(stop=("9",))
    for reply, stop, ended in (
        (FOUR, Stop.NATURAL, True),
        ("hm " * 40 + "\n</think>\n\nThe final answer is 6.", Stop.BUDGET, True),  # only its thinking was cut
        ("2+2 is\n</think>\n\nThe final answer is " + "6" * 200, Stop.BUDGET, False),
        ("2+2 is\n</think>\n\nThe final answer is 79.", Stop.STOP_STRING, True),
    ):
        response = ask(ScriptedEngine([reply]), asked)
        assert (response.stop, response.ended) == (stop, ended)
        assert response.candidates[0].trace.ended is ended


def test_max_tokens_below_the_budget_cuts_too_but_is_called_length() -> None:
    response = ask(ScriptedEngine([ENDLESS]), request(max_tokens=60))
    assert (response.stop, response.answer) == (Stop.LENGTH, "6")
    assert response.candidates[0].trace.num_tokens <= 60


def test_streams_share_the_prompt_and_the_opening_which_are_encoded_once() -> None:
    engine = ScriptedEngine([FOUR])
    alone = ScriptedEngine([FOUR])
    together = ask(engine, request(streams=4, stop_early=False))
    single = ask(alone, request())
    assert engine.decoded[:2] == alone.decoded[:2]
    own = single.kv_bytes - sum(alone.decoded[:2]) * engine.info.kv_bytes_per_cell
    assert together.kv_bytes == sum(engine.decoded[:2]) * engine.info.kv_bytes_per_cell + 4 * own


def test_stream_i_draws_with_seed_plus_i() -> None:
    response = ask(ScriptedEngine([FOUR, FIVE]), request(streams=4, seed=1, stop_early=False))
    assert [c.answer for c in response.candidates] == ["5", "4", "5", "4"]
    assert [c.trace.seed for c in response.candidates] == [1, 2, 3, 4]


def test_a_certain_majority_cancels_the_rest_whose_answer_and_score_are_none() -> None:
    response = ask(ScriptedEngine([FOUR, FOUR, ENDLESS]), request(streams=3, budget=Budget(limit_tokens=400)))
    last = response.candidates[2]
    assert response.answer == "4"
    assert (last.trace.stop, last.answer, last.score) == (Stop.CANCELLED, None, None)
    assert response.stop is Stop.NATURAL
    assert response.usage.all_streams_tokens == sum(c.trace.num_tokens for c in response.candidates)


def test_weighted_without_a_verifier_falls_back_to_majority_and_says_so_to_every_caller() -> None:
    engine = ScriptedEngine([FOUR, FIVE, FIVE])
    pipeline, batch = Pipeline(engine), Batch(engine)
    first, second = (
        [
            e
            for e in drive(pipeline.run(request(streams=3, vote=Vote.WEIGHTED), batch), batch)
            if isinstance(e, Notice)
        ]
        for _ in range(2)
    )
    assert len(first) == 1
    assert "majority" in first[0].text
    assert second == first
    assert ask(ScriptedEngine([FOUR, FIVE, FIVE]), request(streams=3, vote=Vote.WEIGHTED)).answer == "5"


def test_weighted_votes_by_the_verifiers_scores_all_in_one_batch() -> None:
    verifier = ListVerifier(0.2, 0.3, 0.9)
    asked = request(streams=3, vote=Vote.WEIGHTED, stop_early=False)
    response = ask(ScriptedEngine([FIVE, FIVE, FIVE.replace("5", "4")]), asked, verifier=verifier)
    assert response.answer == "4"
    assert [c.score for c in response.candidates] == pytest.approx([0.2, 0.3, 0.9])
    assert verifier.batches == [3]


class Reading:
    """A verifier that keeps what it is given."""

    def __init__(self, layers: tuple[int, ...], prompt_ids: tuple[int, ...]) -> None:
        self.layers, self.prompt_ids = layers, prompt_ids
        self.given: list[np.ndarray] = []

    def score(self, features: np.ndarray) -> np.ndarray:
        self.given += list(features)
        return np.full(len(features), 0.5, np.float32)


def means_by_hand(tokens: list[int], layers: tuple[int, ...]) -> list[np.ndarray]:
    engine, rows = ScriptedEngine(num_layers=4), {layer: [] for layer in layers}
    with engine.reserve(cells=len(tokens), sequences=1):
        takes = {layer: some.append for layer, some in rows.items()}
        engine.encode(engine.new_sequence(), tokens, on_states=takes)
    return [np.concatenate(rows[layer]).mean(axis=0) for layer in layers]


@pytest.mark.parametrize("reply", [FOUR, ENDLESS], ids=["ends by itself", "is cut and made to answer"])
def test_a_verifier_reads_means_over_the_trace_and_then_what_is_behind_its_prompt(reply: str) -> None:
    engine = ScriptedEngine([reply], num_layers=4)
    layers = (-3, -2)
    verifier, asks, both = Reading(layers, ()), Reading((), (63, 63)), Reading(layers, (63, 63))
    response = ask(engine, request(), verifier=verifier)
    expected = np.concatenate(means_by_hand(list(response.candidates[0].trace.token_ids), layers))
    np.testing.assert_allclose(verifier.given[0], expected, rtol=1e-5)
    plain = sum(engine.decoded)
    for one in (asks, both):
        again = ScriptedEngine([reply], num_layers=4)
        ask(again, request(), verifier=one)
        assert sum(again.decoded) == plain + 2  # the prompt, and nothing else
    np.testing.assert_allclose(both.given[0], np.concatenate([expected, asks.given[0]]), rtol=1e-5)


def test_what_verifying_takes_is_told_apart() -> None:
    now_s = 0.0

    class SlowVerifier(ListVerifier):
        def score(self, states: np.ndarray) -> np.ndarray:
            nonlocal now_s
            now_s += 0.5
            return super().score(states)

    asked = request(streams=2, stop_early=False)
    engine = ScriptedEngine([FIVE, FOUR + " " * 40])  # they end in different steps, and are scored apart
    timing = ask(engine, asked, verifier=SlowVerifier(0.2, 0.3), clock=lambda: now_s).timing
    assert (timing.verify_s, timing.total_s) == (1.0, 1.0)
    assert ask(ScriptedEngine([FIVE]), request()).timing.verify_s == 0.0


@pytest.mark.parametrize(("p", "route"), [(0.2, Route.CHAT), (0.5, Route.THINK), (0.9, Route.THINK)])
def test_auto_follows_the_switcher_which_reads_every_prompt_token(p: float, route: Route) -> None:
    engine, switcher = ScriptedEngine([FOUR]), FixedSwitcher(p)
    response = ask(engine, request(mode=Mode.AUTO, streams=2), switcher=switcher)
    assert (response.route, response.p_think) == (route, p)
    assert switcher.made.rows == response.usage.prompt_tokens == engine.decoded[0]
    assert len(response.candidates) == (1 if route is Route.CHAT else 2)


def test_auto_without_a_switcher_thinks_and_says_so() -> None:
    response = ask(ScriptedEngine([FOUR]), request(mode=Mode.AUTO))
    assert response.route is Route.THINK
    assert "auto thinks" in response.notices[0]


def test_an_adapter_is_on_from_the_opening_and_never_before() -> None:
    engine = ScriptedEngine([FOUR])
    crossed: list[int] = []
    cross = engine.cross
    engine.cross = lambda sequence, adapter: (crossed.append(sequence.length), cross(sequence, adapter))  # type: ignore
    response = ask(engine, request(), adapter=engine.load_adapter(Path("reasoning.gguf")))
    assert crossed == [response.usage.prompt_tokens]


def test_an_adapter_with_buckets_gets_its_hint_and_a_bare_base_gets_the_lead_in() -> None:
    bare, trained = ScriptedEngine([FOUR]), ScriptedEngine([FOUR])
    ask(bare, request())
    ask(trained, request(), adapter=trained.load_adapter(Path("reasoning.gguf")), buckets=(64, 128))
    assert bare.decoded[1] == len("<think>\nLet me work this out step by step.\n")
    assert trained.decoded[1] == len("<think>\nBudget: 64 tokens.\n")


def test_events_tell_the_story_in_order() -> None:
    events = events_of(ScriptedEngine([FOUR, FIVE]), request(streams=2))
    assert isinstance(events[0], Routed)
    assert isinstance(events[-1], Answered)
    said = {i: "".join(e.text for e in events if isinstance(e, Text) and e.stream == i) for i in (0, 1)}
    assert said == {0: FOUR, 1: FIVE}
    assert [type(e) for e in events if isinstance(e, Ended | Tallied)] == [Ended, Tallied, Ended, Tallied]


def test_a_caller_who_stops_gets_what_there_is() -> None:
    engine = ScriptedEngine([ENDLESS])
    batch, told = Batch(engine), []
    for event in drive(
        Pipeline(engine).run(request(), batch, Caller(should_stop=lambda: len(told) >= 6)), batch
    ):
        told.append(event)
    assert isinstance(told[-1], Answered)
    response = told[-1].response
    assert (response.stop, response.answer) == (Stop.CANCELLED, "")
    assert response.thinking is not None
    assert response.thinking.startswith("hm")


def test_nothing_is_left_behind_after_an_answer_a_refusal_or_an_abandoned_run() -> None:
    engine = ScriptedEngine([ENDLESS], context_tokens=2000)
    pipeline, batch = Pipeline(engine), Batch(engine)
    list(drive(pipeline.run(request(streams=4), batch), batch))
    with pytest.raises(ContextOverflow):
        list(drive(pipeline.run(request("x" * 3000), batch), batch))
    run: Iterator[Event] = drive(pipeline.run(request(streams=4), Batch(engine)), batch)
    next(run), next(run)
    del run
    assert (engine.live_sequences, engine.used_cells) == (0, 0)
    assert all(sampler.closed for sampler in engine.samplers)
    with engine.reserve(cells=2000, sequences=1):
        pass  # every promise was given back, too


def test_a_prompt_longer_than_the_context_names_both_numbers() -> None:
    engine = ScriptedEngine([FOUR], context_tokens=64)
    with pytest.raises(ContextOverflow) as caught:
        ask(engine, request("x" * 100))
    assert caught.value.available_tokens == 64
    assert caught.value.needed_tokens > 100


def test_streams_that_do_not_fit_beside_the_prompt_are_refused_before_any_decode() -> None:
    engine = ScriptedEngine([FOUR], context_tokens=400)
    with pytest.raises(ContextOverflow):
        ask(engine, request(streams=8))
    assert engine.decoded == []


@pytest.mark.parametrize(
    "options", [{"streams": 0}, {"streams": 65}, {"seed": -1}, {"max_tokens": 0}, {"question": "  "}]
)
def test_requests_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        request(**options)  # type: ignore[arg-type]


def test_temperature_out_of_range_is_refused() -> None:
    with pytest.raises(RequestError, match="temperature"):
        Sampling(temperature=-0.1)


def test_many_requests_share_batches_and_get_what_each_gets_alone() -> None:
    asked = [request(f"{'x' * n} 2+2?", streams=2, seed=n, stop_early=False) for n in range(1, 8)]
    alone = [ask(ScriptedEngine([FOUR, FIVE]), one) for one in asked]
    engine = ScriptedEngine([FOUR, FIVE], context_tokens=1500)
    pipeline, batch = Pipeline(engine), Batch(engine)
    starts = [lambda one=one: pipeline.run(one, batch) for one in asked]
    together: dict[int, Response] = {}
    for index, event in drive_many(starts, batch, max_running=16):
        if isinstance(event, Answered):
            together[index] = event.response
    for index, response in enumerate(alone):
        assert [c.answer for c in together[index].candidates] == [c.answer for c in response.candidates]
        assert together[index].usage == response.usage
    assert max(engine.decoded[14:]) > 2  # streams of several requests were stepped together
    assert engine.live_sequences == 0


def test_a_request_that_can_never_fit_is_refused_even_among_many() -> None:
    engine = ScriptedEngine([FOUR], context_tokens=300)
    pipeline, batch = Pipeline(engine), Batch(engine)
    with pytest.raises(ContextOverflow):
        list(drive_many([lambda: pipeline.run(request("x" * 500), batch)], batch, max_running=4))


@pytest.mark.parametrize(("streams", "max_running"), [(1, 1), (4, 4), (2, 4), (4, 8), (3, 2)])
def test_many_requests_all_end_however_few_may_run_at_a_time(streams: int, max_running: int) -> None:
    engine = ScriptedEngine([FOUR, FIVE], context_tokens=3000)
    pipeline, batch = Pipeline(engine), Batch(engine)
    starts = [lambda: pipeline.run(request(streams=streams), batch)] * 5
    ended = [i for i, e in drive_many(starts, batch, max_running=max_running) if isinstance(e, Answered)]
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert engine.live_sequences == 0


def test_a_failing_engine_leaves_nothing_behind_even_while_the_error_is_handled() -> None:
    engine = ScriptedEngine([FOUR], context_tokens=2000)
    pipeline, batch = Pipeline(engine), Batch(engine)
    engine.step = lambda feeds: (_ for _ in ()).throw(EngineError("broken"))  # type: ignore[method-assign]
    for drivers in (
        lambda: drive(pipeline.run(request(streams=4), batch), batch),
        lambda: drive_many([lambda: pipeline.run(request(streams=4), batch)], batch, max_running=8),
    ):
        try:
            list(drivers())
        except EngineError:
            assert engine.live_sequences == 0
            engine.reserve(cells=2000, sequences=1).close()
        else:
            pytest.fail("the engine's error was swallowed")


def test_two_requests_taken_in_turns_do_not_disturb_each_other() -> None:
    engine = ScriptedEngine(["It is 4."], context_tokens=3000)
    pipeline = Pipeline(engine)
    batches = [Batch(engine), Batch(engine)]
    runs = [drive(pipeline.run(request(mode=Mode.CHAT, budget=None), batch), batch) for batch in batches]
    last = [None, None]
    for events in zip(*runs, strict=True):
        last = list(events)
    assert [event.response.text for event in last if isinstance(event, Answered)] == ["It is 4."] * 2


def test_a_model_that_ends_its_turn_behind_the_stub_is_made_to_say_something() -> None:
    response = ask(ScriptedEngine([""]), request())
    assert response.text == "The final answer is ?"
    assert response.answer != ""


@pytest.mark.parametrize("tag", ["</think>", "<think>", " </think>", "\n</think>", "\n\n </think>\n\n6"])
def test_no_tag_can_be_drawn_behind_a_forced_answer_prefix(tag: str) -> None:
    response = ask(ScriptedEngine(["hm " * 500 + f"\n</think>\n\nThe final answer is {tag}"]), request())
    assert response.text.split() == ["The", "final", "answer", "is", "?"]


def test_a_stray_tag_wins_no_vote() -> None:
    replies = [f"\n</think>\n\n{said}" for said in ("</think>", "</think>", "The final answer is 4.")]
    for seed in range(3):
        asked = request(streams=3, seed=seed * 3, stop_early=False)
        assert ask(ScriptedEngine(replies), asked).answer == "4"


def test_forced_text_is_told_in_the_phase_that_it_belongs_to() -> None:
    for reply in (FOUR, ENDLESS):
        events = events_of(ScriptedEngine([reply]), request())
        said = dict.fromkeys(Phase, "")
        for event in events:
            if isinstance(event, Text):
                said[event.phase] += event.text
        assert "</think>" in said[Phase.THINKING]
        assert said[Phase.ANSWER].strip().startswith("The final answer is")


def test_chat_answers_are_not_verified_and_vote_by_majority() -> None:
    verifier = ListVerifier()
    for seed in range(6):
        engine = ScriptedEngine(["4", "4", "5"])
        asked = request(mode=Mode.CHAT, budget=None, streams=3, seed=seed * 3, stop_early=False)
        assert ask(engine, asked, verifier=verifier).answer == "4"
    assert verifier.batches == []


@pytest.mark.parametrize(
    ("effort", "buckets", "limit_tokens"),
    [
        (Effort.MINIMAL, (256, 64, 128), 80),
        (Effort.LOW, (256, 64, 128), 160),
        (Effort.MEDIUM, (256, 64, 128), 320),
        (Effort.HIGH, (256, 64, 128), 1024),
        (Effort.MEDIUM, (), 512),
        (Effort.MINIMAL, (16,), 47),  # of this engine's tokens, the fewest that end in an answer
    ],
)
def test_efforts_are_the_buckets_with_their_margins_and_beyond_them_what_they_are_without(
    effort: Effort, buckets: tuple[int, ...], limit_tokens: int
) -> None:
    engine = ScriptedEngine([FOUR])
    adapter = engine.load_adapter(Path("reasoning.gguf"))
    events = events_of(engine, request(budget=None, effort=effort), adapter=adapter, buckets=buckets)
    (routed,) = (event for event in events if isinstance(event, Routed))
    assert routed.limit_tokens == limit_tokens


def test_no_effort_is_less_than_a_lower_one_whatever_the_buckets() -> None:
    paper = (1000, 3000, 4000, 6000)
    assert [effort_tokens(effort, paper) for effort in Effort] == [None, 1250, 3750, 5000, 7500, 7500, 7500]


def test_effort_none_is_chat_with_as_many_streams_as_asked_for() -> None:
    response = ask(
        ScriptedEngine(["4"]),
        request(mode=Mode.AUTO, budget=None, effort=Effort.NONE, streams=3, stop_early=False),
    )
    assert response.route is Route.CHAT
    assert len(response.candidates) == 3


@pytest.mark.parametrize("limit", [1, 8, 16, 31])
def test_a_chat_takes_a_budget_that_is_too_small_to_think_in(limit: int) -> None:
    asked = request(mode=Mode.CHAT, budget=Budget(limit_tokens=limit))
    response = ask(ScriptedEngine(["word " * 50]), asked)
    assert (response.route, response.usage.answer_tokens, response.stop) == (Route.CHAT, limit, Stop.BUDGET)


@pytest.mark.parametrize("max_tokens", [1, 24, 31])
@pytest.mark.parametrize("budget", [None, Budget(limit_tokens=100), Budget(limit_s=60.0)])
def test_auto_chats_where_max_tokens_leave_no_room_to_think_and_says_so(max_tokens: int, budget) -> None:
    asked = request(mode=Mode.AUTO, budget=budget, max_tokens=max_tokens)
    response = ask(ScriptedEngine(["word " * 50]), asked)
    assert (response.route, response.usage.answer_tokens) == (Route.CHAT, max_tokens)
    (notice,) = response.notices
    least = least_tokens(Seams.of(ScriptedEngine().tokenize))
    assert notice == (
        f"max_tokens {max_tokens} leaves no room to think, which takes {least} at the least, so auto chats"
    )


@pytest.mark.parametrize("limit", [1, 16, 24, 31, 38])
@pytest.mark.parametrize("max_tokens", [None, 500])
def test_auto_chats_where_a_budget_leaves_no_room_to_think_and_says_so(limit: int, max_tokens) -> None:
    asked = request(mode=Mode.AUTO, budget=Budget(limit_tokens=limit), max_tokens=max_tokens)
    response = ask(ScriptedEngine(["word " * 50]), asked)
    assert (response.route, response.usage.answer_tokens, response.stop) == (Route.CHAT, limit, Stop.BUDGET)
    least = least_tokens(Seams.of(ScriptedEngine().tokenize))
    assert least > 38
    assert response.notices == (
        f"a budget of {limit} tokens leaves no room to think, which takes {least} at the least, "
        "so auto chats",
    )


def test_auto_still_thinks_where_max_tokens_leave_room() -> None:
    response = ask(ScriptedEngine([FOUR]), request(mode=Mode.AUTO, budget=None, max_tokens=80))
    assert response.route is Route.THINK


def test_max_tokens_too_small_to_think_in_is_refused_by_its_name() -> None:
    with pytest.raises(RequestError, match="max_tokens"):
        ask(ScriptedEngine([FOUR]), request(max_tokens=20))
