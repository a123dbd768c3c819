"""Every field is honoured, known to have no effect, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from edgereason.core.types import Budget, Effort, Message, Mode, Vote
from edgereason.server import chat, messages, native, responses
from edgereason.server.asking import Ask, Served, UnknownModel, folded
from edgereason.server.fields import Refused, parse

SERVED = Served(name="small")
ASKED = [{"role": "user", "content": "2+2?"}]


def read(**fields: Any) -> Ask:
    return chat.read({"messages": ASKED, **fields}, SERVED, drawn_seed=7)


def refused(**fields: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        read(**fields)
    return caught.value


def test_what_is_left_out_has_the_librarys_default_and_the_drawn_seed() -> None:
    ask = read()
    assert (ask.request.mode, ask.request.effort, ask.request.budget) == (Mode.AUTO, Effort.MEDIUM, None)
    assert (ask.request.seed, ask.model, ask.is_stream, ask.with_reasoning) == (7, "small", False, True)


@pytest.mark.parametrize(
    ("fields", "mode", "effort"),
    [
        ({"reasoning_effort": "none"}, Mode.CHAT, Effort.MEDIUM),
        ({"reasoning_effort": "low"}, Mode.THINK, Effort.LOW),
        ({"reasoning_effort": "xhigh"}, Mode.THINK, Effort.XHIGH),
        ({"reasoning_effort": "auto"}, Mode.AUTO, Effort.MEDIUM),
        ({"think": True}, Mode.THINK, Effort.MEDIUM),
        ({"think": False}, Mode.CHAT, Effort.MEDIUM),
        ({"chat_template_kwargs": {"enable_thinking": False}}, Mode.CHAT, Effort.MEDIUM),
        ({"edgereason": {"mode": "auto"}, "reasoning_effort": "high"}, Mode.AUTO, Effort.HIGH),
        ({"thinking_budget_tokens": 0}, Mode.CHAT, Effort.MEDIUM),
        ({"model": "small:chat"}, Mode.CHAT, Effort.MEDIUM),
        ({"model": "small:chat", "reasoning_effort": "high"}, Mode.THINK, Effort.HIGH),
    ],
)
def test_thinking_is_asked_for_in_every_spelling(fields: dict[str, Any], mode: Mode, effort: Effort) -> None:
    request = read(**fields).request
    assert (request.mode, request.effort) == (mode, effort)


@pytest.mark.parametrize(
    "name", ["thinking_budget_tokens", "reasoning_budget_tokens", "thinking_token_budget"]
)
def test_a_budget_is_taken_under_each_name_that_clients_use(name: str) -> None:
    assert read(**{name: 300}).request.budget == Budget(limit_tokens=300)
    assert read(**{name: 300}).request.mode is Mode.AUTO


def test_a_budget_makes_a_server_think_that_only_chats_otherwise() -> None:
    served = Served(name="small", mode=Mode.CHAT)
    plain = chat.read({"messages": ASKED}, served, 0)
    given = chat.read({"messages": ASKED, "thinking_budget_tokens": 300}, served, 0)
    assert (plain.request.mode, given.request.mode) == (Mode.CHAT, Mode.THINK)


def test_the_extension_carries_what_no_protocol_has() -> None:
    request = read(edgereason={"mode": "think", "budget": "5s", "streams": 4, "vote": "best"}).request
    assert (request.mode, request.budget) == (Mode.THINK, Budget(limit_s=5.0))
    assert (request.streams, request.vote) == (4, Vote.BEST)


def test_the_name_that_votes_asks_for_four_streams() -> None:
    request = read(model="small:vote").request
    assert (request.mode, request.streams) == (Mode.THINK, 4)


def test_options_of_the_next_harder_try_can_be_sent_as_they_are() -> None:
    request = read(edgereason={"mode": "think", "budget": None, "effort": "high"}).request
    assert (request.mode, request.effort) == (Mode.THINK, Effort.HIGH)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking_budget_tokens": 100, "thinking_token_budget": 200}, "thinking_token_budget"),
        ({"thinking_budget_tokens": 100, "edgereason": {"budget": 200}}, "edgereason.budget"),
        ({"reasoning_effort": "none", "think": True}, "think"),
        (
            {"think": True, "chat_template_kwargs": {"enable_thinking": False}},
            "chat_template_kwargs.enable_thinking",
        ),
        ({"edgereason": {"mode": "chat"}, "reasoning_effort": "high"}, "reasoning_effort"),
        ({"max_tokens": 10, "max_completion_tokens": 20}, "max_tokens"),
        ({"n": 2, "edgereason": {"streams": 2}}, "n"),
    ],
)
def test_places_that_contradict_each_other_are_refused(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.param, error.code) == (param, "contradiction")


def test_the_same_budget_twice_is_no_contradiction() -> None:
    assert read(thinking_budget_tokens=100, thinking_token_budget=100).request.budget == Budget(
        limit_tokens=100
    )


@pytest.mark.parametrize(
    ("fields", "param", "advice"),
    [
        # vllm-project/vllm#50166: a budget in the wrong place was dropped, and thinking went on without one.
        (
            {"chat_template_kwargs": {"thinking_budget": 100}},
            "chat_template_kwargs.thinking_budget",
            "top level",
        ),
        (
            {"chat_template_kwargs": {"thinking_token_budget": 9}},
            "chat_template_kwargs.thinking_token_budget",
            "top level",
        ),
        ({"budget": "5s"}, "budget", "'edgereason'"),
        ({"streams": 4}, "streams", "'edgereason'"),
        ({"thinking_budget": 100}, "thinking_budget", "thinking_budget_tokens"),
        ({"enable_thinking": False}, "enable_thinking", "chat_template_kwargs"),
        ({"edgereason": {"temperature": 1}}, "edgereason.temperature", "top level"),
        ({"extra_body": {"top_k": 3}}, "extra_body", "top level"),
        ({"max_token": 5}, "max_token", "did you mean 'max_tokens'?"),
        ({"reasoning": {"effort": "low"}}, "reasoning", "reasoning_effort"),
    ],
)
def test_a_misplaced_field_is_refused_and_its_place_named(
    fields: dict[str, Any], param: str, advice: str
) -> None:
    error = refused(**fields)
    assert error.param == param
    assert advice in str(error)


@pytest.mark.parametrize(
    ("name", "harmless", "harmful"),
    [
        ("store", False, True),
        ("tools", [], [{"type": "function"}]),
        ("tool_choice", "auto", "required"),
        ("functions", [], [{"name": "f"}]),
        ("logprobs", False, True),
        ("top_logprobs", 0, 3),
        ("frequency_penalty", 0.0, 0.5),
        ("presence_penalty", 0, -1),
        ("repetition_penalty", 1.0, 1.1),
        ("logit_bias", {}, {"50256": -100}),
        ("response_format", {"type": "text"}, {"type": "json_object"}),
        ("modalities", ["text"], ["text", "audio"]),
        ("verbosity", "medium", "low"),
        ("audio", None, {"voice": "alloy"}),
        ("prediction", None, {"type": "content", "content": "x"}),
        ("web_search_options", None, {}),
        ("reasoning_budget_message", None, "That is enough."),
        ("lora", [], [{"id": 0}]),
    ],
)
def test_a_field_is_accepted_only_where_it_changes_nothing(name: str, harmless: Any, harmful: Any) -> None:
    assert read(**{name: harmless}) == read()
    error = refused(**{name: harmful})
    assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    "name",
    ["user", "metadata", "service_tier", "prompt_cache_key", "safety_identifier", "parallel_tool_calls"],
)
def test_fields_without_effect_take_any_value(name: str) -> None:
    assert read(**{name: "whatever"}) == read(**{name: None}) == read()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 9}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": 2**40}, "max_completion_tokens", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 65}, "n", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"seed": 1 << 64}, "seed", "invalid_value"),
        ({"reasoning_effort": "hgh"}, "reasoning_effort", "invalid_value"),
        ({"thinking_budget_tokens": -1}, "thinking_budget_tokens", "invalid_value"),
        ({"think": True, "thinking_budget_tokens": 8}, "thinking_budget_tokens", "invalid_value"),
        ({"edgereason": {"budget": "700s"}}, "edgereason.budget", "invalid_value"),
        ({"edgereason": {"streams": 65}}, "edgereason.streams", "invalid_value"),
        ({"edgereason": {"vote": "all"}}, "edgereason.vote", "invalid_value"),
        ({"edgereason": {"mode": "thnk"}}, "edgereason.mode", "invalid_value"),
        ({"edgereason": []}, "edgereason", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "2+2?"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "invalid_value"),
    ],
)
def test_a_value_that_cant_be_used_is_refused_under_its_fields_name(
    fields: dict[str, Any], param: str, code: str
) -> None:
    error = refused(**fields)
    assert (error.param, error.code) == (param, code)


def test_a_type_is_named_as_people_call_it() -> None:
    assert str(refused(max_tokens="5")) == "max_tokens: expected a whole number, got a text"
    with pytest.raises(Refused, match=r"^messages is missing$"):
        chat.read({}, SERVED, 0)


def test_another_models_name_is_not_found() -> None:
    with pytest.raises(UnknownModel, match="small:think"):
        read(model="gpt-4o")


def test_a_seed_of_64_bits_is_folded_and_a_small_one_kept() -> None:
    # 2⁶³ + 5 is bit 63 and 5: bit 63 is bit 1 of the third group of 31 bits, and 5 XOR 2 is 7.
    assert folded(2**63 + 5) == 7
    assert folded(2**31 - 1) == 2**31 - 1
    assert folded(-1) == folded(2**64 - 1) == (2**31 - 1) ^ (2**31 - 1) ^ 3
    assert read(seed=123).request.seed == 123


def test_instructions_come_first_wherever_they_stood() -> None:
    # ggml-org/llama.cpp#20215: templates know no developer.
    turns = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "hm", "tool_calls": None, "refusal": None},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "And 3+3?"},
    ]
    assert read(messages=turns).request.messages == (
        Message("system", "Be short.\n\nBe kind."),
        Message("user", "2+2?"),
        Message("assistant", "4"),
        Message("user", "And 3+3?"),
    )


def test_text_parts_are_one_text() -> None:
    # qualcomm/GenieX#683
    parts = [{"type": "text", "text": "2+2?"}, {"type": "text", "text": "In words."}]
    assert read(messages=[{"role": "user", "content": parts}]).request.question == "2+2?\nIn words."


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": "\ud800"}, "messages[0].content"),
        ({"role": "tool", "content": "4"}, "messages[0].role"),
        ({"role": "usr", "content": "4"}, "messages[0].role"),
        ({"role": "user", "contents": "4"}, "messages[0].contents"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls"),
        ({"role": "assistant", "content": "It is"}, "messages"),
        ("2+2?", "messages[0]"),
    ],
)
def test_a_turn_that_cant_be_used_is_refused_by_its_place(turn: Any, param: str) -> None:
    assert refused(messages=[turn]).param == param


def test_a_conversation_of_more_than_1024_turns_is_refused() -> None:
    assert refused(messages=ASKED * 1025).code == "too_many_messages"
    assert len(read(messages=ASKED * 1024).request.messages) == 1024


def test_candidates_are_streams_that_all_end() -> None:
    ask = read(n=3, reasoning_effort="low")
    assert (ask.num_choices, ask.request.streams, ask.request.stop_early) == (3, 3, False)
    assert read(n=3).request.mode is Mode.THINK
    assert "candidates" in read(n=3).notices[0]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"NaN", b'{"a": 1e999}', b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a":' + b"[" * 100_000],
)
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse(body)
    assert caught.value.code == "invalid_json"


def own(**fields: Any) -> Ask:
    return native.read({"messages": ASKED, **fields}, SERVED, 7)[0]


def test_the_page_speaks_of_options_as_the_library_does() -> None:
    ask = own(mode="think", budget="5s", streams=2, vote="majority", system="Be short.", max_tokens=50)
    request = ask.request
    assert (request.mode, request.budget, request.streams) == (Mode.THINK, Budget(limit_s=5.0), 2)
    assert (request.vote, request.max_tokens) == (Vote.MAJORITY, 50)
    assert request.messages[0] == Message("system", "Be short.")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"budget": "700s"}, "budget"),
        ({"id": ""}, "id"),
        ({"model": "small"}, "model"),
        ({"mode": "x"}, "mode"),
    ],
)
def test_the_page_too_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        own(**fields)
    assert caught.value.param == param


def test_a_control_names_a_request_and_one_action() -> None:
    assert native.read_control({"id": "a", "action": "answer_now"}, "answer_now") == "a"
    with pytest.raises(Refused, match="action must be 'answer_now'"):
        native.read_control({"id": "a", "action": "stop"}, "answer_now")


def response(**fields: Any) -> Ask:
    return responses.read({"input": "2+2?", **fields}, SERVED, 7)


def test_responses_take_a_text_or_items() -> None:
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "4", "annotations": []}]},
        {"role": "user", "content": "3+3?"},
    ]
    assert response(input=items, instructions="Be short.").request.messages == (
        Message("system", "Be short.\n\nBe kind."),
        Message("user", "2+2?"),
        Message("assistant", "4"),
        Message("user", "3+3?"),
    )
    assert response().request.messages == (Message("user", "2+2?"),)


def test_responses_know_effort_and_summary() -> None:
    ask = response(reasoning={"effort": "high", "summary": "auto"}, max_output_tokens=900)
    assert (ask.request.mode, ask.request.effort, ask.request.max_tokens) == (Mode.THINK, Effort.HIGH, 900)
    assert ask.with_summary and not response(reasoning={"effort": "low"}).with_summary


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"reasoning": {"summary": "all"}}, "reasoning.summary"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"input": [{"type": "function_call_output", "output": "4"}]}, "input[0].type"),
    ],
)
def test_what_responses_cant_honour_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        response(**fields)
    assert caught.value.param == param


def test_what_changes_nothing_is_accepted_in_responses() -> None:
    same = response(
        store=False,
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        background=False,
        tools=[],
    )
    assert same == response(text={"format": {"type": "text"}, "verbosity": "medium"}) == response()


def message(**fields: Any) -> Ask:
    return messages.read({"messages": ASKED, "max_tokens": 900, **fields}, SERVED, 7)


def test_messages_know_thinking_budget_and_instructions() -> None:
    ask = message(
        thinking={"type": "enabled", "budget_tokens": 300}, system=[{"type": "text", "text": "Be short."}]
    )
    request = ask.request
    assert (request.mode, request.budget, request.max_tokens) == (Mode.THINK, Budget(limit_tokens=300), 900)
    assert request.messages[0] == Message("system", "Be short.")
    assert message(thinking={"type": "disabled"}).request.mode is Mode.CHAT
    adaptive = message(thinking={"type": "adaptive"}, output_config={"effort": "high"}, stop_sequences=["x"])
    assert (adaptive.request.mode, adaptive.request.effort) == (Mode.THINK, Effort.HIGH)
    assert adaptive.request.stop == ("x",)


def test_thinking_of_earlier_messages_is_dropped() -> None:
    turns = [
        *ASKED,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "4", "cache_control": {"type": "ephemeral"}},
            ],
        },
        *ASKED,
    ]
    assert message(messages=turns).request.messages[1] == Message("assistant", "4")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking": {"type": "on"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "effort": "low"}}, "thinking.effort"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "thinking.type"),
        ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
        ({"stop": "a"}, "stop"),
        ({"budget_tokens": 500}, "budget_tokens"),
        ({"tools": [{"name": "f"}]}, "tools"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
    ],
)
def test_what_messages_cant_honour_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        message(**fields)
    assert caught.value.param == param
