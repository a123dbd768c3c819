"""What clients read of an answer: chunks, response events and the page's frames, byte by byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from script import FACTS, Script

from edgereason.core.chat import split_chat, split_thinking
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.events import Event, Text
from edgereason.reasoning.model import Model
from edgereason.server import chat, messages, responses
from edgereason.server.answering import Collected, ThoughtText
from edgereason.server.asking import Served
from edgereason.server.native import Frames
from edgereason.server.sse import DONE, frame

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."
FIVE = "Perhaps 5.\n</think>\n\nThe final answer is 5."
IDENTITY = {"id": "chatcmpl-1", "created": 1, "model": "small"}


def chunks(script: Script, fields: tuple[str, ...] = ("reasoning_content",)) -> list[dict[str, Any]]:
    """All chunks of an answer whose events come one by one."""
    translator = chat.Chunks(Collected(script.ask, FACTS), IDENTITY, fields)
    return translator.first() + [chunk for event in script.events for chunk in translator.take([event])]


def joined(chunks: list[dict[str, Any]], key: str, index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(key) or "" for choice in choices)


def in_batches(events: list[Event], sizes: Iterator[int]) -> Iterator[list[Event]]:
    while events:
        size = next(sizes)
        yield events[:size]
        events = events[size:]


def test_a_chat_goes_out_in_these_bytes() -> None:
    script = Script(["4"], reasoning_effort="none", stream=True)
    translator = chat.Chunks(Collected(script.ask, FACTS), IDENTITY, ("reasoning_content",))
    told = [*translator.first(), *translator.take(script.events[:-1])]
    head = (
        b'data: {"id":"chatcmpl-1","created":1,"model":"small","object":"chat.completion.chunk",'
        b'"system_fingerprint":"edgereason-0.2.0","choices":[{"index":0,"delta":'
    )
    tail = b',"logprobs":null,"finish_reason":null}]}\n\n'
    assert b"".join(map(frame, told)) == (
        head + b'{"role":"assistant","content":""}' + tail + head + b'{"content":"4"}' + tail
    )
    last = translator.take(script.events[-1:])
    assert [chunk["choices"] for chunk in last] == [
        [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    ]
    assert DONE == b"data: [DONE]\n\n"


def test_thinking_goes_apart_from_the_answer_and_without_its_tags() -> None:
    told = chunks(Script([FOUR], reasoning_effort="low"))
    assert joined(told, "reasoning_content") == "2+2 is 4."
    assert joined(told, "content") == "The final answer is 4."
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert told[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "fields", [("reasoning_content",), ("reasoning",), ("reasoning_content", "reasoning")]
)
def test_thinking_goes_where_the_server_was_told(fields: tuple[str, ...]) -> None:
    told = chunks(Script([FOUR], reasoning_effort="low"), fields)
    given = {name: joined(told, name) for name in ("reasoning_content", "reasoning")}
    assert given == {name: "2+2 is 4." if name in fields else "" for name in given}


def test_thinking_that_is_not_wanted_is_left_out() -> None:
    script = Script([FOUR], reasoning_effort="low", include_reasoning=False)
    told = chunks(script)
    assert "reasoning_content" not in json.dumps(told)
    assert joined(told, "content") == "The final answer is 4."
    whole = chat.whole(collected(script), script.response, IDENTITY, ("reasoning_content",))
    assert whole["choices"][0]["message"].keys() == {"role", "content", "refusal"}


def collected(script: Script) -> Collected:
    found = Collected(script.ask, FACTS)
    for event in script.events:
        found.take(event)
    return found


def test_usage_comes_only_if_it_was_asked_for_and_choices_always() -> None:
    # Arthur-Ficial/apfel#100, ROCm/ATOM#1711, #1803
    without = chunks(Script([FOUR], reasoning_effort="low", stream=True))
    assert all("usage" not in chunk and chunk["choices"] for chunk in without)
    asked = chunks(
        Script([FOUR], reasoning_effort="low", stream=True, stream_options={"include_usage": True})
    )
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    # Tokens are bytes here: "2+2 is 4.\n</think>" has 18, "\n\nThe final answer is 4." has 24; the prompt is
    # "<start>user\n2+2?<end>\n<start>assistant\n" with three control tokens.
    assert asked[-1]["usage"] == {
        "prompt_tokens": 23,
        "completion_tokens": 42,
        "total_tokens": 65,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 18},
    }


def test_a_vote_is_told_only_once_it_is_certain() -> None:
    script = Script([FIVE, FOUR, FOUR], edgereason={"mode": "think", "streams": 3})
    told = chunks(script)
    assert joined(told, "content") == "The final answer is 4."
    assert joined(told, "reasoning_content") == "2+2 is 4."
    assert [set(chunk["choices"][0]["delta"]) for chunk in told] == [
        {"role", "content"},
        {"reasoning_content"},
        {"content"},
        set(),
    ]
    extension = told[-1]["edgereason"]
    assert (extension["route"], extension["winner"], extension["seed"]) == ("think", 1, 0)
    assert extension["tally"] == [["4", 2.0]]
    assert [stream["stop"] for stream in extension["streams"]] == ["cancelled", "natural", "natural"]


def test_candidates_are_choices_that_speak_at_the_same_time() -> None:
    script = Script([FOUR, FIVE], n=2, reasoning_effort="low")
    told = chunks(script)
    assert [joined(told, "content", index) for index in (0, 1)] == [
        "The final answer is 4.",
        "The final answer is 5.",
    ]
    reasons = [(c["index"], c["finish_reason"]) for chunk in told[-2:] for c in chunk["choices"]]
    assert reasons == [(0, "stop"), (1, "stop")]
    whole = chat.whole(collected(script), script.response, IDENTITY, ("reasoning_content",))
    assert [choice["message"]["content"] for choice in whole["choices"]] == [
        "The final answer is 4.",
        "The final answer is 5.",
    ]
    assert whole["usage"]["completion_tokens"] == 42 + 43


def test_an_answer_that_ended_by_itself_is_not_called_cut_where_its_thinking_was() -> None:
    # vllm-project/vllm#55420, sipeed/picoclaw#966: thinking eats everything, or no answer is owed.
    long = "hm " * 200 + "\n</think>\n\nThe final answer is 4."
    script = Script([long], thinking_budget_tokens=100, think=True)
    told = chunks(script)
    assert str(script.response.stop) == "budget"
    assert told[-1]["choices"][0]["finish_reason"] == "stop"
    assert joined(told, "content") == "The final answer is 4."
    assert joined(told, "reasoning_content") == script.response.thinking


def test_an_answer_that_was_cut_is_called_so() -> None:
    told = chunks(Script(["a long story " * 20], reasoning_effort="none", max_tokens=30))
    assert told[-1]["choices"][0]["finish_reason"] == "length"
    assert len(joined(told, "content")) == 30


def test_a_stop_string_inside_thinking_ends_nothing() -> None:
    # vllm-project/vllm#52393
    told = chunks(Script(["2+2 is 4.\n</think>\n\nIt is 4. Or not."], reasoning_effort="low", stop=["4."]))
    assert joined(told, "reasoning_content") == "2+2 is 4."
    assert joined(told, "content") == "It is "
    assert told[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_whole_completion_is_what_was_streamed() -> None:
    script = Script([FOUR], reasoning_effort="low")
    whole = chat.whole(collected(script), script.response, IDENTITY, ("reasoning_content",))
    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "The final answer is 4.",
                "refusal": None,
                "reasoning_content": "2+2 is 4.",
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert whole["edgereason"]["harder"] == {"mode": "think", "budget": None, "effort": "medium"}


@pytest.mark.parametrize(
    ("reply", "is_chat"),
    [
        ("Hm.\n\n</think>\n\n4", False),
        ("No end of thinking </thi", False),
        ("\n\nHm.\n</think>\n4", False),
        ("<think>\nBoxed: 3?\n</think>\n\nIt is 4.", True),
        ("<thinking>Hm.</thinking>4", True),
        ("<think>\n```\n</think>\n```\nHm.</think>4", True),
        ("<think>\n\n</think>\n\n4", True),
        ("<reasoning>Cut off", True),
        ("<think>only this\n\n", True),
        ("[THINK]Hm.[/THINK]4", True),
    ],
)
@given(data=st.data())
def test_thinking_in_any_pieces_is_the_traces_thinking(
    data: st.DataObject, reply: str, is_chat: bool
) -> None:
    split = split_chat if is_chat else split_thinking
    thinking, answer = split(reply)
    assert thinking is not None
    # What the runtime calls thinking ends where the answer begins.
    spoken = reply if answer is None else reply.removesuffix(answer)
    tag_end = next((n for n, one in enumerate(spoken) if one in ">]"), 0)
    start = tag_end + 1 if is_chat else 1  # an opening tag comes whole
    cuts = data.draw(st.lists(st.integers(start, len(spoken)), max_size=8).map(sorted))
    places = [0, *cuts, len(spoken)]
    thought = ThoughtText(is_chat=is_chat)
    shown = [thought.push(spoken[a:b]) for a, b in pairwise(places)]
    assert "".join([*shown, thought.flush()]) == thinking


@given(st.lists(st.integers(1, 7), min_size=200, max_size=200))
def test_batches_of_any_size_say_the_same(sizes: list[int]) -> None:
    script = Script([FOUR], reasoning_effort="low")
    translator = chat.Chunks(Collected(script.ask, FACTS), IDENTITY, ("reasoning_content",))
    told = [chunk for batch in in_batches(script.events, iter(sizes)) for chunk in translator.take(batch)]
    assert joined(told, "reasoning_content") == "2+2 is 4."
    assert joined(told, "content") == "The final answer is 4."


def test_a_character_of_several_tokens_is_never_sent_in_pieces() -> None:
    # abetlen/llama-cpp-python#372: tokens are bytes here, so each emoji is four of them.
    told = chunks(Script(["Yes 🙂🙃!"], reasoning_effort="none"))
    assert joined(told, "content") == "Yes 🙂🙃!"
    assert all("�" not in json.dumps(chunk, ensure_ascii=False) for chunk in told)


def test_no_text_ends_a_line_of_the_stream() -> None:
    data = frame({"text": "a\u2028b\u2029c\x85d\r\ne"})
    assert data == b'data: {"text":"a\\u2028b\\u2029c\\u0085d\\r\\ne"}\n\n'
    assert len(data.decode().splitlines()) == 2


def response_events(script: Script) -> list[dict[str, Any]]:
    translator = responses.ResponseEvents(Collected(script.ask, FACTS), "resp_1", 1)
    told = translator.first() + [one for event in script.events for one in translator.take([event])]
    assert all(kind == value["type"] for kind, value in told)
    return [value for _, value in told]


def ask_response(script: Script, **fields: Any) -> Script:
    script.ask = responses.read({"input": "2+2?", "seed": 0, **fields}, Served(name="small"), 0)
    script.events = list(Model(ScriptedEngine(["2+2 is 4.\n</think>\n\n4"])).run(script.ask.request))
    return script


def kinds(told: list[dict[str, Any]]) -> list[str]:
    """Types in order, deltas in a row once."""
    names = [event["type"].removeprefix("response.") for event in told]
    return [name for i, name in enumerate(names) if not i or name != names[i - 1]]


def test_responses_tell_thinking_and_message_as_items() -> None:
    told = response_events(ask_response(Script([FOUR]), reasoning={"effort": "low"}))
    assert kinds(told) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    whole = told[-1]["response"]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    assert whole["output"][0]["content"] == [{"type": "reasoning_text", "text": "2+2 is 4."}]
    assert whole["output"][1]["content"][0]["text"] == "4"
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 18}
    assert whole["status"] == "completed"


def test_responses_summarise_where_that_is_asked_for() -> None:
    told = response_events(ask_response(Script([FOUR]), reasoning={"effort": "low", "summary": "auto"}))
    names = kinds(told)
    assert "reasoning_summary_text.delta" in names and "reasoning_summary_part.done" in names
    assert not [name for name in names if name.startswith("reasoning_text")]
    item = told[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "2+2 is 4."}]


def test_a_response_that_chats_has_no_reasoning_item() -> None:
    told = response_events(ask_response(Script([FOUR]), reasoning={"effort": "none"}))
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["message"]


def test_a_response_whose_answer_was_cut_is_incomplete() -> None:
    told = response_events(ask_response(Script([FOUR]), reasoning={"effort": "none"}, max_output_tokens=5))
    assert told[-1]["type"] == "response.incomplete"
    assert told[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_response_that_is_not_streamed_is_the_streams_last() -> None:
    script = ask_response(Script([FOUR]), reasoning={"effort": "low"})
    told = response_events(script)
    whole = responses.whole(collected(script), script.response, "resp_1", 1)
    assert whole == told[-1]["response"]


def test_the_page_sees_every_stream() -> None:
    script = Script([FIVE, FOUR, FOUR], edgereason={"mode": "think", "streams": 3})
    frames = Frames(Collected(script.ask, FACTS), "mine")
    told = [*frames.first(), *frames.take(script.events)]
    assert told[0] == {"type": "accepted", "id": "mine", "seed": 0}
    assert [f["type"] for f in told] == [
        *("accepted", "routed", "texts"),
        *("ended", "ended", "tally", "ended", "answered"),
    ]
    items = [item for f in told if f["type"] == "texts" for item in f["items"]]
    said = {
        stream: "".join(item["text"] for item in items if item["stream"] == stream) for stream in (0, 1, 2)
    }
    assert said == {0: FIVE, 1: FOUR, 2: FOUR}
    assert max(item["tokens"] for item in items if item["stream"] == 0) == len(FIVE)
    answered = told[-1]
    assert (answered["answer"], answered["winner"], answered["route"]) == ("4", 1, "think")
    assert answered["usage"] == {
        "prompt": 23, "cached": 0, "thinking": 18, "answer": 24, "all_streams": 2 * 42 + len(FIVE),
    }  # fmt: skip
    assert answered["harder"] == {"options": {"mode": "think", "budget": None, "effort": "high"}}


def test_texts_in_a_row_are_one_item() -> None:
    script = Script([FOUR], reasoning_effort="low")
    frames = Frames(Collected(script.ask, FACTS), "mine").take(script.events)
    texts = [f for f in frames if f["type"] == "texts"]
    assert [[(item["phase"], item["text"]) for item in f["items"]] for f in texts] == [
        [("thinking", "2+2 is 4.\n</think>\n\n"), ("answer", "The final answer is 4.")]
    ]
    assert sum(isinstance(event, Text) for event in script.events) > 10


def test_messages_tell_thinking_and_text_as_blocks() -> None:
    script = Script([FOUR], reasoning_effort="low")
    translator = messages.MessageEvents(Collected(script.ask, FACTS), "msg_1")
    told = translator.first() + [one for event in script.events for one in translator.take([event])]
    names = [kind for kind, _ in told]
    assert [name for i, name in enumerate(names) if not i or name != names[i - 1]] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    deltas = [value["delta"] for kind, value in told if kind == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "2+2 is 4."
    assert "".join(delta.get("text", "") for delta in deltas) == "The final answer is 4."
    assert [value["index"] for kind, value in told if kind == "content_block_start"] == [0, 1]
    end = dict(told)["message_delta"]
    assert end["delta"]["stop_reason"] == "end_turn"
    assert end["usage"] == {"input_tokens": 23, "cache_read_input_tokens": 0, "output_tokens": 42}
    whole = messages.whole(collected(script), script.response, "msg_1")
    assert whole["content"] == [
        {"type": "thinking", "thinking": "2+2 is 4.", "signature": ""},
        {"type": "text", "text": "The final answer is 4."},
    ]


def test_a_message_says_why_it_stopped() -> None:
    for fields, reason in (({"max_tokens": 5}, "max_tokens"), ({"stop": "4"}, "stop_sequence")):
        script = Script(["2+2 is 4, or so."], reasoning_effort="none", **fields)
        assert messages.whole(collected(script), script.response, "msg_1")["stop_reason"] == reason
