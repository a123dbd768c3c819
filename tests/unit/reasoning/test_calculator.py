"""Exact results in what streams think: when one is forced, what it costs, and who has it."""

from __future__ import annotations

import dataclasses

import pytest

from edgereason.core.chat import ANSWER_PREFIX, CLOSING, Seams
from edgereason.core.types import Budget, Message, Mode, Request, Response, Stop, Trace
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.calculator import MOST_REPEATS, Calculator, number_instead_of
from edgereason.reasoning.control import ANSWER_TOKENS, ChatControl, ThinkControl, reserve
from edgereason.reasoning.many import answer_many
from edgereason.reasoning.model import Model
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.runs import drive, last_response

WRONG = "3 * $12 = $38.\n</think>\n\nThe final answer is 38."
RIGHT = "3 * $12 = $36."


def tokenize(text: str, *, special: bool = False) -> list[int]:
    return list(text.encode())


def heard(text: str) -> Calculator:
    calculator = Calculator(tokenize)
    calculator.hear(text)
    return calculator


# ── what is forced in the place of what was drawn ──────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "drawn", "forced"),
    [
        ("3 * 12 =", "3", "36"),
        ("3 * 12 = ", "3", "36"),
        ("3 * 12 = ", "9", "36"),
        ("3 * 12 =", " 38", " 36"),  # a token that holds blank and digits
        ("3 * 12", " = 3", " = 36"),
        ("3 * $12 = $", "3", "36"),
        ("3 * $12 =", " $3", " $36"),
        (r"\(3 \times 12 = \$", "3", "36"),
        (r"\[ 3 \times 12 = \boxed{", "3", "36"),
        ("3 * 12 = **", "3", "36"),
        ("3 - 12 = -", "8", "9"),
        ("$3 - $12 = -$", "8", "9"),
        ("100% - 20% = ", "7", "80"),
        ("1 / 4 = ", "0", "0.25"),
        ("5 - 5 = ", "1", "0"),
        ("x = 5 - 3 = ", "1", "2"),
    ],
)
def test_a_number_that_begins_behind_an_expression_becomes_its_result(
    said: str, drawn: str, forced: str
) -> None:
    number = heard(said).instead_of(drawn)
    assert number is not None
    assert (number.text, list(number.ids)) == (forced, list(forced.encode()))


@pytest.mark.parametrize(
    ("said", "drawn"),
    [
        ("3 * 12 = 3", "8"),  # inside a number
        ("3 * 12 = ", "x"),
        ("3 * 12 =", "\n"),
        ("3 * 12 =\n", "3"),
        ("3 * 12 = ", "3 "),  # more than first digits
        ("3 * 12 = ", "3."),
        ("3 * 12 = about ", "3"),
        ("3 * 12 == ", "3"),
        ("3 * 12 <= ", "3"),
        ("3 * 12 ", "3"),
        ("x * 12 = ", "3"),
        ("3 * 12 = -", "3"),  # it does not mean what it wrote
        ("3 - 12 = ", "9"),  # a difference
        ("1 / 4 = ", "2"),  # 25 %, or 25 cents
        ("3 / 6 = ", "1"),  # a half
        ("100% - 20% = ", "0"),  # 0.8
        ("50 cents * 3 = $", "1"),
        ("1 / 3 = ", "0"),
        ("3 * 12 = 36</think>\n\n3 * 12 = ", "3"),  # thinking is over
    ],
)
def test_what_may_mean_something_else_is_left_as_drawn(said: str, drawn: str) -> None:
    assert heard(said).instead_of(drawn) is None


def test_it_makes_no_difference_in_which_pieces_the_text_comes() -> None:
    calculator = Calculator(tokenize)
    for character in "So 7 apples * $2 = $":
        calculator.hear(character)
    number = calculator.instead_of("1")
    assert number is not None
    assert number.text == "14"


def test_a_repeated_expression_is_computed_so_often_and_then_left_alone() -> None:
    calculator = Calculator(tokenize)
    computed = []
    for _ in range(MOST_REPEATS + 2):
        calculator.hear("So 3 * 12 = ")
        computed.append(calculator.instead_of("3") is not None)
        calculator.hear("36\n")
    assert computed == [True] * MOST_REPEATS + [False] * 2
    calculator.hear("3 * 13 = ")
    assert calculator.instead_of("3") is not None  # another one


def test_a_digit_that_is_drawn_right_behind_a_result_becomes_a_blank() -> None:
    # Else the exact 125 would begin the wrong 1250 that the model had in mind.
    reply = "So 2.5% * 5000 = $1250 more.\n</think>\n\nThe final answer is 125."

    calculator = heard("2.5% * 5000 = $")
    said = ""
    for drawn in ["1", "0", "0", "\n"]:
        number = number_instead_of(calculator, drawn, lambda num_tokens: True)
        said += drawn if number is None else number.text
    assert said == "125 0\n"
    with Model(ScriptedEngine([reply])) as model:  # which goes on behind its own number
        response = model.ask("?", mode="think", budget=200, calculator=True)
    assert response.thinking == "So 2.5% * 5000 = $125 more."


def spelled(said: str, own: str) -> str:
    """What becomes of a text that is drawn character by character."""
    calculator, text = heard(said), ""
    for drawn in own:
        number = number_instead_of(calculator, drawn, lambda num_tokens: True)
        text += drawn if number is None else number.text
    return text


@pytest.mark.parametrize(
    ("said", "own", "becomes"),
    [
        ("4 * 125 - 2 = ", "500 - 2 = 497", "500 - 2 = 498 "),  # its own step; the last digits are too many
        ("4 * 125 - 2 = ", "9", "498"),  # no step begins so
        ("4 * 125 + 2 = ", "503", "502"),  # as far as the step's 500 it may be one
        ("4 * 125 + 2 = ", "500 + 2", "500 + 2"),
        ("80 + 0.25 x 80 = ", "80 + 16 = 9", "80 + 16 = 96"),
        ("$204 + $160 + $330 = $", "7", "694"),
        ("80 + 60 + 100 = ", "140 + 100", "140 + 100"),
        ("2 x 6 + 3 x 4 = ", "12 + 12", "12 + 12"),
        ("(3 + 4) * 2 = ", "7 * 2", "7 * 2"),
        ("3/4 * 20 = ", "60/4", "60/4"),
        ("20% * 50 = ", "0.2 * 50", "0.2 * 50"),
        ("20% * 50 = ", "3", "10"),
        ("12 + 100 + 8 = ", "1200", "120 "),  # 12 and 112 are steps, 120 is the result
        ("1,000 * 3 + 5 = ", "3,000 + 5", "3,000 + 5"),
        ("1,000 * 3 + 5 = ", "3,006", "3,005"),
        ("3 * 12 = ", "3 * 12", "36 * 12"),  # one sign has no steps
    ],
)
def test_a_partly_computed_form_is_the_models_own(said: str, own: str, becomes: str) -> None:
    assert spelled(said, own)[: len(becomes)] == becomes


# ── the budget ─────────────────────────────────────────────────────────────────────────────────────

SEAMS = Seams.of(tokenize)


def test_a_forced_result_counts_and_the_drawn_digit_does_not() -> None:
    control = ThinkControl(SEAMS, 200, calculator=Calculator(tokenize))
    for character in "12 * 12 = ":
        control.on_token(character, is_end=False)
    verdict = control.on_token("9", is_end=False)
    assert (verdict.keep, verdict.forced_text, verdict.seams, verdict.done) == (False, "144", (), False)
    assert (control.thinking_tokens, control.answer_tokens) == (len("12 * 12 = 144"), 0)


def test_a_result_that_would_eat_into_what_is_held_back_is_left_as_drawn() -> None:
    limit = 100
    expression = "12 * 12 = "
    room = limit - reserve(SEAMS, limit)  # thinking ends at this many tokens

    def at(num_before: int) -> tuple[bool, str]:
        control = ThinkControl(SEAMS, limit, calculator=Calculator(tokenize))
        for character in ("\n" * num_before + expression)[-num_before - len(expression) :]:
            control.on_token(character, is_end=False)
        verdict = control.on_token("9", is_end=False)
        return verdict.keep, verdict.forced_text

    fits = room - len(expression) - len("144") - 1  # one token is left before the closing
    assert at(fits) == (False, "144")
    assert at(fits + 1) == (True, "")


def test_no_limit_is_ever_exceeded_by_results() -> None:
    reply = "99 * 99 = 1\n" * 60 + "</think>\n\nThe final answer is 1."
    for limit in range(60, 120):
        with Model(ScriptedEngine([reply])) as model:
            response = model.ask("?", mode="think", budget=limit, calculator=True)
        trace = response.candidates[0].trace
        assert len(trace.token_ids) <= limit
        assert trace.num_tokens == len(trace.token_ids)
        assert response.stop is Stop.BUDGET
        assert CLOSING + ANSWER_PREFIX in bytes(trace.token_ids).decode()


def test_a_chats_result_leaves_room_for_a_token() -> None:
    def at(limit: int) -> str:
        control = ChatControl(limit, calculator=Calculator(tokenize))
        for character in "12 * 12 = ":
            control.on_token(character, is_end=False)
        return control.on_token("9", is_end=False).forced_text

    assert at(len("12 * 12 = 144") + 1) == "144"
    assert at(len("12 * 12 = 144")) == ""


def test_a_result_owes_no_answer() -> None:
    # Were an answer owed, the closing that follows at once could not be drawn.
    with Model(ScriptedEngine(["3 * 12 = 38</think>\n\nThe final answer is 36."])) as model:
        response = model.ask("?", mode="think", budget=200, calculator=True)
    assert (response.thinking, response.text) == ("3 * 12 = 36", "The final answer is 36.")


# ── who has it ─────────────────────────────────────────────────────────────────────────────────────


def thought(response: Response) -> str:
    return response.thinking.split("\n")[0]


def test_a_request_decides_and_the_bundle_where_it_does_not() -> None:
    def ask(*, bundle: bool, **options: object) -> str:
        engine = ScriptedEngine([WRONG])
        request = Request(
            messages=(Message("user", "?"),),
            mode=Mode.THINK,
            budget=Budget(limit_tokens=200),
            **options,  # type: ignore[arg-type]
        )
        batch = Batch(engine)
        return thought(last_response(drive(Pipeline(engine, calculator=bundle).run(request, batch), batch)))

    assert ask(bundle=False) == "3 * $12 = $38."
    assert ask(bundle=True) == RIGHT
    assert ask(bundle=True, calculator=False) == "3 * $12 = $38."
    assert ask(bundle=False, calculator=True) == RIGHT


def test_chat_has_it_only_where_both_are_asked_for() -> None:
    engine = ScriptedEngine(["3 * 12 = 38."])
    batch = Batch(engine)

    def ask(mode: Mode, calculator: bool | None) -> str:
        request = Request(messages=(Message("user", "?"),), mode=mode, effort="none", calculator=calculator)  # type: ignore[arg-type]
        return last_response(drive(Pipeline(engine, calculator=True).run(request, batch), batch)).text

    assert ask(Mode.CHAT, None) == "3 * 12 = 38."
    assert ask(Mode.AUTO, True) == "3 * 12 = 38."  # the question went to chat
    assert ask(Mode.CHAT, True) == "3 * 12 = 36."


def test_every_stream_of_a_vote_computes_for_itself() -> None:
    replies = [WRONG, "30 + 6 = 37.\n</think>\n\nThe final answer is 36."]
    with Model(ScriptedEngine(replies)) as model:
        response = model.ask("?", mode="think", budget=200, streams=4, calculator=True)
    assert [one.trace.thinking for one in response.candidates] == [RIGHT, "30 + 6 = 36."] * 2


def test_requests_beside_each_other_compute_for_themselves() -> None:
    requests = [
        Request(
            messages=(Message("user", "?"),),
            mode=Mode.THINK,
            budget=Budget(limit_tokens=200),
            calculator=calculator,
        )
        for calculator in (True, False, True)
    ]
    with Model(ScriptedEngine([WRONG])) as model:
        answered = dict(answer_many(model, requests, max_running=8))
    assert [thought(answered[i]) for i in range(3)] == [RIGHT, "3 * $12 = $38.", RIGHT]


def test_a_session_thinks_harder_as_it_was_asked() -> None:
    with Model(ScriptedEngine([WRONG])) as model, model.session() as session:
        session.ask("?", mode="think", budget=200, calculator=True)
        assert thought(session.think_harder()) == RIGHT


def test_log_probabilities_are_of_what_was_drawn() -> None:
    request = Request(
        messages=(Message("user", "?"),),
        mode=Mode.THINK,
        budget=Budget(limit_tokens=200),
        want_logprobs=True,
        calculator=True,
    )
    with Model(ScriptedEngine([WRONG])) as model:
        trace = last_response(model.run(request)).candidates[0].trace
    assert trace.logprobs is not None
    assert len(trace.logprobs) == trace.forced.count(False)
    assert [chr(token) for token, forced in zip(trace.token_ids, trace.forced, strict=True) if forced] == [
        "3",
        "6",
    ]


def test_a_native_models_thinking_that_was_not_closed_by_force_is_not_said_to_be() -> None:
    reply = "<think>\n3 * 12 = 38\n</think>\n\n" + "It is 36. " * 20
    with Model(ScriptedEngine([reply])) as model:
        response = model.ask("?", mode="chat", max_tokens=60, calculator=True)
    assert response.thinking == "3 * 12 = 36"
    assert response.stop is Stop.LENGTH
    assert not any("closed" in notice for notice in response.notices)


# ── replays ────────────────────────────────────────────────────────────────────────────────────────


def cut(trace: Trace, limits: list[int], *, calculator: bool) -> list[Trace]:
    """What the trace would have come to under harder limits."""
    engine = ScriptedEngine([LONG])
    request = Request(
        messages=(Message("user", "?"),),
        mode=Mode.THINK,
        budget=Budget(limit_tokens=400),
        streams=len(limits),
        stop_early=False,
        calculator=calculator,
    )
    batch = Batch(engine)
    run = Pipeline(engine).truncate(request, trace, limits, batch)
    return [candidate.trace for candidate in last_response(drive(run, batch)).candidates]


LONG = "3 * $12 = $38.\n" + "and so on, " * 8 + "\n7 + 7 = 15\n</think>\n\nThe final answer is 14."


@pytest.fixture
def recorded() -> Trace:
    with Model(ScriptedEngine([LONG])) as model:
        return model.ask("?", mode="think", budget=400, calculator=True).candidates[0].trace


@pytest.mark.parametrize("calculator", [True, False])
def test_a_replayed_trace_says_its_results_again(recorded: Trace, calculator: bool) -> None:
    whole, harder = cut(recorded, [400, 80], calculator=calculator)
    assert (whole.token_ids, whole.stop) == (recorded.token_ids, Stop.NATURAL)
    assert harder.thinking is not None
    assert harder.thinking.startswith("3 * $12 = $36.\nand so on")
    assert (harder.stop, len(harder.token_ids) <= 80) == (Stop.BUDGET, True)


def test_a_replay_takes_what_ended_a_turn_for_that() -> None:
    # The model ended its turn in the middle of thinking, right behind a result.
    with Model(ScriptedEngine(["3 * 12 = 38"])) as model:
        trace = model.ask("?", mode="think", budget=400, calculator=True).candidates[0].trace
    assert bytes(trace.token_ids).decode().startswith("3 * 12 = 36\n</think>\n\nThe final answer is ")
    (whole,) = cut(trace, [400], calculator=True)
    assert whole.token_ids == trace.token_ids


def test_a_request_takes_no_other_values() -> None:
    request = Request(messages=(Message("user", "?"),))
    with pytest.raises(Exception, match="calculator"):
        dataclasses.replace(request, calculator="yes")


def test_a_result_leaves_what_closes_a_native_thought_and_answers() -> None:
    # Of 80 tokens 15 close, and 8 answer.
    def at(used: int) -> str:
        control = ChatControl(80, seams=SEAMS, is_open=True, calculator=Calculator(tokenize))
        for character in ("\n" * 80 + "12 * 12 = ")[-used:]:
            assert control.on_token(character, is_end=False).forced == ()
        return control.on_token("9", is_end=False).forced_text

    assert len("\n```\n</think>\n\n") + ANSWER_TOKENS == 23
    assert at(80 - 23 - len("144") - 1) == "144"
    assert at(80 - 23 - len("144")) == ""
