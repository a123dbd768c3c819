"""Published chat templates of the usual families: what is asked, who opens thinking, what closes it.

What a template comes to is jinja2's own rendering, with the settings that transformers renders with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from test_pipeline import FixedSwitcher, ask, request

from edgereason.core.chat import LEAD_IN, ChatTemplate
from edgereason.core.types import Budget, Message, Response, Route, Stop
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ModelFileError, RequestError
from edgereason.reasoning.model import Model
from edgereason.reasoning.pipeline import Pipeline

HERE = Path(__file__).parents[1] / "templates"
QUESTION = "What is 2+2?"
OFF = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Family:
    """A published template, and what is expected of it.

    Attributes:
        name: of the template.
        ends: what its prompts end with.
        opening: what its model opens thinking with; "" for one that does not think natively.
        off: what the template writes so that the model does not think.
        opens: whether the template opens thinking itself.
        refuses_system: whether it takes no system message.
    """

    name: str
    ends: str
    opening: str = ""
    off: str = ""
    opens: bool = False
    refuses_system: bool = False

    @property
    def closing(self) -> str:
        return "[/THINK]" if self.opening == "[THINK]" else "</think>\n\n"

    @property
    def source(self) -> str:
        own = HERE / f"{self.name}.jinja"
        if own.is_file():
            return own.read_text("utf-8")
        if (trl := find_spec("trl")) is None or trl.origin is None:
            pytest.skip("TRL, which carries this template, is not installed")
        return (Path(trl.origin).parent / "chat_templates" / own.name).read_text("utf-8")


CHATML = "<|im_start|>assistant\n"
HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
FAMILIES = (
    Family("qwen2_5", CHATML),
    Family("qwen3", CHATML, "<think>\n", OFF),
    Family("qwen3_instruct_2507", CHATML),
    Family("deepseek_r1_distill", "<｜Assistant｜>", "<think>\n", opens=True),
    Family("llama3", HEADER),
    Family("llama3_1", HEADER),
    Family("llama3_2", HEADER),
    Family("gemma", "<start_of_turn>model\n", refuses_system=True),
    Family("gemma3", "<start_of_turn>model\n"),
    Family("phi3", "<|assistant|>\n"),
    Family("phi3_5", "<|assistant|>\n"),
    Family("mistral_nemo", "[/INST]"),
    Family("ministral_reasoning", "[/INST]", "[THINK]"),
    Family("smollm3", CHATML, "<think>\n", "<think>\n\n</think>\n"),
)
NATIVE = [family for family in FAMILIES if family.opening]
USER = Message("user", QUESTION)
CONVERSATIONS = (
    (USER,),
    (Message("system", "Be brief."), USER),
    (Message("user", "Hi?"), Message("assistant", "Hello."), USER),
)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """Each in turn."""
    return request.param  # type: ignore[no-any-return]


def rendered(source: str, messages: Sequence[Message], **values: Any) -> str:
    """The template by jinja2 itself."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "30 Nov 2026"}
    said = [{"role": one.role, "content": one.content} for one in messages]
    return environment.from_string(source).render(
        messages=said, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", **values
    )


def tokenize(text: str, *, special: bool = False) -> list[int]:
    return list(text.encode())


class Heard(ScriptedEngine):
    """The scripted engine with a family's template; notes the text of everything that is encoded."""

    def __init__(self, family: Family, replies: Sequence[str]) -> None:
        super().__init__(replies)
        self._info = replace(self.info, chat_template=family.source, bos_text="<s>", eos_text="</s>")
        self.heard = ""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return list(text.encode())

    def encode(self, sequence: Any, tokens: Any, **more: Any) -> bool:
        self.heard += bytes(tokens).decode()
        return super().encode(sequence, tokens, **more)


@pytest.fixture(autouse=True)
def a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1796040000")  # 2026-11-30


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=lambda messages: f"{len(messages)} messages")
@pytest.mark.parametrize("thinks", [None, True, False])
def test_prompt_and_opening_are_what_the_template_writes_and_every_message_is_in_the_prompt(
    family: Family, messages: tuple[Message, ...], thinks: bool | None
) -> None:
    template = ChatTemplate(family.source, "<s>", "</s>")
    told = {} if thinks is None else {"enable_thinking": thinks}
    if family.refuses_system and messages[0].role == "system":
        with pytest.raises(RequestError, match=r"from system, user: .*System role not supported"):
            template.encode(messages, tokenize, enable_thinking=thinks)
        return
    expected = rendered(family.source, messages, **told)
    prompt = bytes(template.encode(messages, tokenize, enable_thinking=thinks)).decode()
    opening = template.chat_opening(messages, enable_thinking=thinks)
    assert prompt + opening == expected
    assert prompt.endswith(family.ends)
    for message in messages:
        assert message.content in prompt
    turned_off = family.off if thinks is False else ""
    assert opening == (family.opening if family.opens else turned_off)


def test_a_model_that_thinks_natively_is_told_by_its_template(family: Family) -> None:
    native = ChatTemplate(family.source).native()
    assert (native and (native.opening, native.closing)) == (
        (family.opening, family.closing) if family.opening else None
    )


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_thinking_is_opened_once_natively_or_by_our_tag_and_a_lead_in(
    family: Family, system: str | None
) -> None:
    if family.refuses_system and system:
        return
    engine = Heard(family, [f"It is 4.\n{family.closing}The final answer is 4."])
    asked = {"system": system} if system else {}
    response = Model(engine).ask(QUESTION, mode="think", budget=128, **asked)  # type: ignore[arg-type]
    opening = family.opening or f"<think>\n{LEAD_IN}"
    messages = [Message("system", system), USER] if system else [USER]
    prompt = rendered(family.source, messages, enable_thinking=True).removesuffix(opening)
    assert engine.heard == prompt + opening
    assert (response.answer, response.thinking) == ("4", "It is 4.")
    assert response.stop is Stop.NATURAL
    assert not any(response.candidates[0].trace.forced)


@pytest.mark.parametrize("budget", [48, 64, 100, 200])
def test_a_budget_closes_thinking_by_the_models_own_tag_and_is_kept(family: Family, budget: int) -> None:
    engine = Heard(family, ["So 3? " * 100 + family.closing + "The final answer is 4."])
    response = Model(engine).ask(QUESTION, mode="think", budget=budget)
    trace = response.candidates[0].trace
    pairs = zip(trace.token_ids, trace.forced, strict=True)
    forced = bytes(token for token, is_forced in pairs if is_forced).decode()
    assert forced.lstrip("\n") == family.closing + "The final answer is "
    assert trace.num_tokens <= budget
    assert response.answer == "4"
    assert response.stop is Stop.BUDGET
    assert set(response.thinking or "") <= set("So 3? ")


def test_streams_vote_and_a_tag_in_pieces_is_not_shown(family: Family) -> None:
    replies = [f"It is {n}.\n{family.closing}The final answer is {n}." for n in (4, 5, 4)]
    response = ask(Heard(family, replies), request(streams=3, stop_early=False))
    assert response.answer == "4"
    assert [one.answer for one in response.candidates] == ["4", "5", "4"]
    assert all(tag not in response.text for tag in ("think>", "THINK]"))


def switched(engine: Heard, p_think: float) -> Response:
    return ask(engine, request(mode="auto"), switcher=FixedSwitcher(p_think))


def test_a_switcher_chooses_over_one_prompt_and_chat_leaves_thinking_out(family: Family) -> None:
    thought = Heard(family, [f"It is 4.\n{family.closing}The final answer is 4."])
    said = Heard(family, ["4"])
    assert switched(thought, 0.9).route is Route.THINK
    response = switched(said, 0.1)
    assert response.route is Route.CHAT
    prompt = rendered(family.source, [USER], enable_thinking=True).removesuffix(
        family.opening if family.opens else ""
    )
    assert thought.heard == prompt + (family.opening or f"<think>\n{LEAD_IN}")
    assert said.heard == prompt + (family.opening if family.opens else family.off)


@pytest.mark.parametrize("family", NATIVE, ids=lambda family: family.name)
def test_chat_leaves_thinking_out_unless_it_is_asked_for_or_can_not_be_left_out(family: Family) -> None:
    plain, asked = Heard(family, ["It is 4."]), Heard(family, [f"{family.opening}3{family.closing}It is 4."])
    response = Model(plain).ask(QUESTION, mode="chat")
    assert plain.heard == rendered(family.source, [USER], enable_thinking=False)
    assert plain.heard.endswith(family.off or (family.opening if family.opens else family.ends))
    if not family.opens:
        assert (response.text, response.thinking) == ("It is 4.", None)
    response = Model(asked).ask(QUESTION, mode="chat", enable_thinking=True)
    assert asked.heard == rendered(family.source, [USER], enable_thinking=True)
    assert (response.text, response.thinking) == ("It is 4.", "3")


def test_thinking_of_an_earlier_turn_is_not_asked_again(family: Family) -> None:
    answer = f"{family.opening or '<think>'}Hm.{family.closing}Hello."
    messages = [Message("user", "Hi?"), Message("assistant", answer), USER]
    prompt = bytes(ChatTemplate(family.source).encode(messages, tokenize)).decode()
    assert "Hm." not in prompt
    assert "Hello." in prompt


def test_a_model_with_an_adapter_thinks_by_the_adapters_seams_and_opens_once(tmp_path: Path) -> None:
    for family in NATIVE:
        engine = Heard(family, ["It is 4.\n</think>\n\nThe final answer is 4."])
        adapter = engine.load_adapter(tmp_path / "a.gguf")
        pipeline = {"adapter": adapter, "buckets": (64,)}
        ask(engine, request(budget=Budget(limit_tokens=100)), **pipeline)
        default = rendered(family.source, [USER])
        prompt = default.removesuffix(family.opening if family.opens else "")
        assert engine.heard == f"{prompt}<think>\nBudget: 64 tokens.\n"
        assert re.search(r"<think>\s*<think>", engine.heard) is None


def test_a_vocabulary_that_can_not_write_the_tags_is_refused_by_name() -> None:
    class Mute(Heard):
        def piece(self, token: int) -> bytes:
            return b"" if token == ord("[") else super().piece(token)

    family = next(one for one in FAMILIES if one.opening == "[THINK]")
    with pytest.raises(ModelFileError, match=r"can't write '\[THINK\]'"):
        Pipeline(Mute(family, ["4"]))
