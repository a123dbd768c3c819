"""Real clients against a real model through a real socket; their warnings are errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgereason
from edgereason.engine.llama import LlamaEngine
from served import Site, served

QUESTION = "Tom has 3 apples and buys 5 more. How many apples does Tom have?"


@pytest.fixture(scope="module")
def site(smollm2: Path) -> Iterator[Site]:
    with served(LlamaEngine(smollm2)) as site:
        yield site


@pytest.fixture(scope="module")
def thought(smollm2: Path) -> edgereason.Response:
    """What the library answers to the question, thinking."""
    with edgereason.load(smollm2) as model:
        return model.ask(QUESTION, mode="think", budget=48, seed=5)


def run_client(site: Site, code: str) -> Any:
    """What a program prints as JSON; a warning of a client's library is an error."""
    head = f"import json\nURL, QUESTION = {site.url!r} + '/v1', {QUESTION!r}\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openai_python_reads_thinking_and_answer(site: Site, thought: edgereason.Response) -> None:
    said = run_client(
        site,
        """
from openai import OpenAI
with OpenAI(base_url=URL, api_key="none") as client:
    name = client.models.list().data[0].id
    asked = dict(model=name, messages=[{"role": "user", "content": QUESTION}], seed=5,
                 reasoning_effort="low", extra_body={"thinking_budget_tokens": 48})
    whole = client.chat.completions.create(**asked)
    asked |= dict(stream=True, stream_options={"include_usage": True})
    with client.chat.completions.create(**asked) as stream:
        chunks = list(stream)
deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
print(json.dumps({
    "whole": [whole.choices[0].message.reasoning_content, whole.choices[0].message.content],
    "streamed": ["".join(getattr(d, "reasoning_content", None) or "" for d in deltas),
                 "".join(d.content or "" for d in deltas)],
    "tokens": [whole.usage.completion_tokens, chunks[-1].usage.completion_tokens],
    "thinking": whole.usage.completion_tokens_details.reasoning_tokens,
    "cached": chunks[-1].usage.prompt_tokens_details.cached_tokens,
    "prompt": whole.usage.prompt_tokens,
    "finish": chunks[-2].choices[0].finish_reason,
}))
""",
    )
    assert said["whole"] == said["streamed"] == [thought.thinking, thought.text]
    spent = thought.usage.thinking_tokens + thought.usage.answer_tokens
    assert said["tokens"] == [spent, spent]
    assert said["thinking"] == thought.usage.thinking_tokens
    assert said["prompt"] == thought.usage.prompt_tokens
    assert said["cached"] >= said["prompt"] - 1


def test_openai_pythons_responses_give_the_same(site: Site, thought: edgereason.Response) -> None:
    said = run_client(
        site,
        """
from openai import OpenAI
with OpenAI(base_url=URL, api_key="none") as client:
    name = client.models.list().data[0].id
    asked = dict(model=name, input=QUESTION, reasoning={"effort": "low"}, store=False,
                 extra_body={"seed": 5, "thinking_budget_tokens": 48})
    whole = client.responses.create(**asked)
    with client.responses.create(**asked, stream=True) as stream:
        events = list(stream)
deltas = {kind: "".join(e.delta for e in events if e.type == kind)
          for kind in ("response.reasoning_text.delta", "response.output_text.delta")}
print(json.dumps({
    "text": whole.output_text,
    "thinking": whole.output[0].content[0].text,
    "streamed": list(deltas.values()),
    "last": events[-1].response.output_text,
    "status": events[-1].response.status,
    "tokens": whole.usage.output_tokens,
}))
""",
    )
    assert said["text"] == said["last"] == thought.text
    assert said["thinking"] == thought.thinking
    assert said["streamed"] == [thought.thinking, thought.text]
    assert said["status"] == ("completed" if thought.ended else "incomplete")


def test_openai_python_raises_what_is_refused(site: Site) -> None:
    said = run_client(
        site,
        """
import openai
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
asked = dict(model=client.models.list().data[0].id, messages=[{"role": "user", "content": QUESTION}])
found = []
tool = {"type": "function", "function": {"name": "f"}}
for more in ({"temperature": 9}, {"tools": [tool]}, {"model": "gpt-4o"}):
    try:
        client.chat.completions.create(**{**asked, **more})
    except openai.APIStatusError as error:
        found.append([type(error).__name__, error.param, error.code])
client.close()
print(json.dumps(found))
""",
    )
    assert said == [
        ["BadRequestError", "temperature", "invalid_value"],
        ["BadRequestError", "tools", "unsupported_parameter"],
        ["NotFoundError", "model", "model_not_found"],
    ]


def test_langchain_chats_and_shows_thinking_over_responses(site: Site, thought: edgereason.Response) -> None:
    said = run_client(
        site,
        """
from langchain_openai import ChatOpenAI
import openai
with openai.OpenAI(base_url=URL, api_key="none") as client:
    name = client.models.list().data[0].id
shared = dict(base_url=URL, api_key="none", model=name)
chat = ChatOpenAI(**shared, seed=5, reasoning_effort="low", extra_body={"thinking_budget_tokens": 48})
plain = chat.invoke(QUESTION)
streamed = "".join(chunk.text for chunk in chat.stream(QUESTION))
responses = ChatOpenAI(**shared, use_responses_api=True, reasoning={"effort": "low", "summary": "auto"},
                       extra_body={"seed": 5, "thinking_budget_tokens": 48})
whole = responses.invoke(QUESTION)
blocks = [block for chunk in responses.stream(QUESTION) for block in chunk.content_blocks]
second = responses.invoke([("human", QUESTION), whole, ("human", "And if he buys 2 more?")])
print(json.dumps({
    "plain": plain.text, "streamed": streamed, "whole": whole.text,
    "thinking": "".join(b["reasoning"] for b in blocks if b["type"] == "reasoning" and "reasoning" in b),
    "answer": "".join(b["text"] for b in blocks if b["type"] == "text"),
    "reasoning_tokens": plain.usage_metadata["output_token_details"]["reasoning"],
    "second": second.text,
}))
""",
    )
    assert said["plain"] == said["streamed"] == said["whole"] == said["answer"] == thought.text
    assert said["thinking"] == thought.thinking
    assert said["reasoning_tokens"] == thought.usage.thinking_tokens
    assert said["second"]


def test_the_next_turn_encodes_only_what_is_new(site: Site) -> None:
    turns = [{"role": "user", "content": QUESTION}]
    first = site.chat(messages=turns, seed=5, reasoning_effort="none", max_tokens=16)
    turns += [{"role": "assistant", "content": first.said()}, {"role": "user", "content": "And 2 more?"}]
    second = site.chat(messages=turns, seed=5, reasoning_effort="none", max_tokens=16)
    before, usage = first.json["usage"]["prompt_tokens"], second.json["usage"]
    # All of the first prompt is there; its answer is encoded again, by the base.
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.9 * before


def test_thinking_harder_encodes_no_prompt_token(site: Site) -> None:
    body = {"messages": [{"role": "user", "content": QUESTION}], "mode": "chat", "seed": 5, "max_tokens": 16}
    first = site.ask("/api/chat", body).events[-1]
    options = first["harder"]["options"]
    harder = site.ask("/api/chat", {**body, **options, "effort": "low", "max_tokens": 60}).events[-1]
    assert (first["route"], harder["route"]) == ("chat", "think")
    assert harder["usage"]["cached"] == harder["usage"]["prompt"]


def test_anthropics_client_reads_thinking_and_text(site: Site, thought: edgereason.Response) -> None:
    said = run_client(
        site,
        """
from anthropic import Anthropic
with Anthropic(base_url=URL.removesuffix("/v1"), api_key="none") as client:
    name = client.models.list().data[0].id
    asked = dict(model=name, max_tokens=400, messages=[{"role": "user", "content": QUESTION}],
                 thinking={"type": "enabled", "budget_tokens": 48}, extra_body={"seed": 5})
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        last = stream.get_final_message()
    counted = client.messages.count_tokens(model=name, messages=asked["messages"]).input_tokens
print(json.dumps({
    "whole": [whole.content[0].thinking, whole.content[1].text],
    "last": [last.content[0].thinking, last.content[1].text],
    "tokens": last.usage.output_tokens,
    "kinds": sorted(set(kinds)),
    "counted": counted,
}))
""",
    )
    assert said["whole"] == said["last"] == [thought.thinking, thought.text]
    assert said["tokens"] == thought.usage.thinking_tokens + thought.usage.answer_tokens
    assert said["counted"] == thought.usage.prompt_tokens
    assert {"thinking", "text", "message_stop"} <= set(said["kinds"])
