"""Values check themselves: what is refused, and in which words."""

from __future__ import annotations

import math

import pytest

import edgereason
from edgereason.core.types import Budget, Effort, Message, Mode, Request, Sampling, Stop, Vote
from edgereason.errors import RequestError

ASKED = (Message("user", "2+2?"),)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Budget(limit_tokens="200"), "limit_tokens must be a whole number, got '200'"),
        (lambda: Budget(limit_tokens=200.0), "limit_tokens must be a whole number, got 200.0"),
        (lambda: Budget(limit_tokens=True), "limit_tokens must be a whole number, got True"),
        (lambda: Budget(limit_s="5s"), "limit_s must be a number, got '5s'"),
        (lambda: Budget(limit_s=math.nan), "above 0 s and at most an hour, got nan s"),
        (lambda: Budget.parse(5), "tokens, as 400, or seconds, as 5s; got 5"),
        (lambda: Budget(limit_token=5), "did you mean 'limit_tokens'"),
        (lambda: Sampling(temperature="0"), "temperature must be a number, got '0'"),
        (lambda: Sampling(temperature=True), "temperature must be a number, got True"),
        (lambda: Sampling(temperature=math.nan), "temperature must be between 0 and 5, got nan"),
        (lambda: Sampling(top_k=4.0), "top_k must be a whole number, got 4.0"),
        (lambda: Sampling(top_p=None), "top_p must be a number, got None"),
        (lambda: Sampling(min_p="0.1"), "min_p must be a number, got '0.1'"),
        (lambda: Sampling(temprature=1), "did you mean 'temperature'"),
        (
            lambda: Message("usr", "2+2?"),
            "role must be one of system, user, assistant; got 'usr', did you mean",
        ),
        (lambda: Message("user", b"2+2?"), "content must be a text, got b'2+2?'"),
        (lambda: Message("user", "\udcff"), "content can't be written as UTF-8"),
        (lambda: Request(messages=()), "needs messages, the last of them from the user"),
        (lambda: Request(messages="2+2?"), "messages must be a sequence of Message, got '2+2?'"),
        (
            lambda: Request(messages=({"role": "user"},)),
            "messages must be a sequence of Message, got ({'role'",
        ),
        (
            lambda: Request(messages=ASKED, mode="thnik"),
            "mode must be one of chat, think, auto; got 'thnik', did",
        ),
        (lambda: Request(messages=ASKED, effort=2), "effort must be one of none, minimal, low"),
        (lambda: Request(messages=ASKED, vote="most"), "vote must be one of majority, weighted, best"),
        (
            lambda: Request(messages=ASKED, budget=200.0),
            "budget must be tokens, as 400, seconds, as '5s', or a",
        ),
        (
            lambda: Request(messages=ASKED, budget=True),
            "budget must be tokens, as 400, seconds, as '5s', or a",
        ),
        (lambda: Request(messages=ASKED, streams="4"), "streams must be a whole number, got '4'"),
        (lambda: Request(messages=ASKED, streams=0), "streams must be between 1 and 64, got 0"),
        (lambda: Request(messages=ASKED, sampling=0.7), "sampling must be of type Sampling, got 0.7"),
        (lambda: Request(messages=ASKED, seed=1.0), "seed must be a whole number, got 1.0"),
        (lambda: Request(messages=ASKED, seed=-1), "seed must be between 0 and 2147483647, got -1"),
        (lambda: Request(messages=ASKED, max_tokens="9"), "max_tokens must be a whole number, got '9'"),
        (lambda: Request(messages=ASKED, max_tokens=0), "max_tokens must be at least 1, got 0"),
        (lambda: Request(messages=ASKED, stop_early=1), "stop_early must be True or False, got 1"),
        (lambda: Request(messages=ASKED, stage=0), "stage must be between 1 and 64, got 0"),
        (lambda: Request(messages=ASKED, stage=True), "stage must be a whole number, got True"),
        (lambda: Request(messages=ASKED, stage=(4, 2)), "in rising order, as 5 or '2,4,8', got (4, 2)"),
        (lambda: Request(messages=ASKED, stage="4,4"), "in rising order, as 5 or '2,4,8', got '4,4'"),
        (lambda: Request(messages=ASKED, stage="2;4"), "in rising order, as 5 or '2,4,8', got '2;4'"),
        (lambda: Request(messages=ASKED, stage=""), "in rising order, as 5 or '2,4,8', got ''"),
        (
            lambda: Request(messages=ASKED, want_logprobs="no"),
            "want_logprobs must be True or False, got 'no'",
        ),
        (lambda: Request(messages=ASKED, stop=("",)), "a stop string must not be empty"),
        (lambda: Request(messages=ASKED, stop=(5,)), "a stop string must be a text, got 5"),
        (lambda: Request(messages=ASKED, stop=5), "stop must be one text or several, got 5"),
        (lambda: Request(messages=ASKED, budjet=200), "did you mean 'budget'"),
    ],
)
def test_what_a_value_can_not_be_is_refused_by_name(make, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        make()
    assert says in str(refused.value)


def test_a_request_takes_plain_values_for_its_own() -> None:
    plain = Request(messages=[*ASKED], mode="think", effort="low", budget=200, vote="best", stop="\n\n")
    assert plain == Request(
        messages=ASKED,
        mode=Mode.THINK,
        effort=Effort.LOW,
        budget=Budget(limit_tokens=200),
        vote=Vote.BEST,
        stop=("\n\n",),
    )
    assert plain.mode is Mode.THINK  # not only equal: routes are told apart by identity
    assert [Request(messages=ASKED, stage=stage).stage for stage in (5, "5", "2, 5", [2, 5], ())] == [
        (5,),
        (5,),
        (2, 5),
        (2, 5),
        (),
    ]
    assert Request(messages=ASKED, budget="5s").budget == Budget(limit_s=5.0)


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (Stop.NATURAL, "stop"),
        (Stop.STOP_STRING, "stop"),
        (Stop.BUDGET, "length"),
        (Stop.LENGTH, "length"),
        (Stop.CANCELLED, None),
    ],
)
def test_every_end_has_its_word_in_openai_s_protocol(stop: Stop, reason: str | None) -> None:
    assert stop.finish_reason == reason


def test_a_text_that_is_long_does_not_flood_the_message() -> None:
    with pytest.raises(RequestError) as refused:
        edgereason.Request(messages="word " * 1000)
    assert len(str(refused.value)) < 120
